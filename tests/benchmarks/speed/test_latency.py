"""The speed benchmark in miniature: from options to a record, tables and a plot."""

import json
import sys
from dataclasses import replace

import pytest
import torch

from benchmarks.harness import core
from benchmarks.speed import ceilings, configurations, load, memory
from benchmarks.speed import latency as bench
from benchmarks.speed.peers.loops import find_peers
from benchmarks.speed.subjects import find_subject
from cm3leon.errors import UserError
from cm3leon.reports import extra
from cm3leon.reports.records import store
from tests.llamagen_code import written_checkout

BATCH, TOKENS = 2, 32


@pytest.fixture
def options(tmp_path, monkeypatch):
    monkeypatch.setattr(load, "busy_seconds", lambda: None)  # a machine that does not tell
    monkeypatch.setattr(load, "LOOK_S", 0.0)
    monkeypatch.setattr(ceilings, "SIDES", {"cpu": 256})
    return bench.Options(
        sizes=("2x32x2",), batches=(BATCH,), dtypes=("float32",), new=TOKENS, repeats=2,
        budget=600.0, device="cpu", results=tmp_path / "results", reports=tmp_path / "out",
    )  # fmt: skip


def folders(options) -> list[str]:
    return ["--results", str(options.results), "--reports", str(options.reports)]


def test_a_whole_run(options, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao", None)  # as if it were not installed
    argv = ["--sizes", "2x32x2", "--batches", "4", "1", "--dtypes", "float32", "int8"]
    argv += ["--new", "16", "--repeats", "2", "--device", "cpu", *folders(options)]
    assert bench.main(argv) == 0
    (path,) = options.results.glob("latency/cm3leon/*.json")
    record = store.read(path)  # the schema, the digest
    assert record["unit"] == "s/image" and record["protocol"]["batches"] == [1, 4]
    first = extra(record, "2x32x2.float32.b1.seconds_per_image")
    assert record["value"] == first["value"] and record["protocol"]["value_of"].endswith(".b1")
    assert record["protocol"]["machine"]["cpu"] == record["environment"]["cpu"]
    assert record["n"] == 2 and record["interval"]["level"] == 0.5  # of two rounds
    for batch in (1, 4):
        measures = {name: extra(record, f"2x32x2.float32.b{batch}.{name}")["value"]
                    for name in ("seconds_per_image", "seconds_per_batch", "images_per_s",
                                 "tokens_per_s", "first_call_s", "peak_memory_gib",
                                 "ideal_memory_ms", "ideal_compute_ms")}  # fmt: skip
        assert all(value > 0 for value in measures.values())
        seconds = measures["seconds_per_batch"]
        assert measures["seconds_per_image"] == pytest.approx(seconds / batch)
        assert measures["tokens_per_s"] == pytest.approx(16 * measures["images_per_s"])
    why = "int8 needs torchao, which is not installed; pip install -e '.[int8]'"
    assert record["warnings"] == [f"2x32x2.int8.b{batch}: {why}" for batch in (1, 4)]
    said = capsys.readouterr().out
    assert "CM3Leon-7B, BF16" in said and "NOT comparable" in said and why in said
    made = {one.name for one in (options.reports / "latency" / "newest").iterdir()}
    assert {"latency.svg", "latency.png", "one_image.csv", "throughput.tex", "roofline.md"} <= made


def test_tokens_are_counted(options):
    """By our loop's own counters: every stream's row takes a step for all but the first token."""
    record, _ = bench.latency(options)
    calls = [4, 4, 16] + 3 * [TOKENS, 4]  # the estimate, a warm round, two counted ones
    assert record["cost"]["counters"]["step_tokens"] == sum(
        2 * BATCH * (count - 1) for count in calls
    )
    assert record["cost"]["tokens"] == 2 * BATCH * TOKENS
    assert not record["warnings"]


def test_over_budget_is_shortened_and_says_so(options, monkeypatch):
    """By a clock on which a token takes a second: 3 rounds of 100 tokens do not fit 300 s."""
    clock = [0.0]
    monkeypatch.setattr(configurations.rounds.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(ceilings, "read_bandwidth", lambda *_: 1e9)
    monkeypatch.setattr(ceilings, "matmul_peak", lambda *_: 1e9)
    draw = configurations.Drawing.draw

    def slow(self, tokens):
        clock[0] += 5.0 + tokens
        return draw(self, tokens)

    monkeypatch.setattr(configurations.Drawing, "draw", slow)
    record, _ = bench.latency(replace(options, new=100, repeats=5, budget=300.0))
    name = "2x32x2.float32.b2"
    # 3 rounds and a warm one: (300 / 4 - 2 * 9) s for the rest of the tokens, in eights
    (warning,) = record["warnings"]
    assert warning == (f"{name}: 56 of 100 tokens drawn, seconds extrapolated, 3 of 5 rounds")
    assert extra(record, f"{name}.tokens")["value"] == 56
    assert extra(record, f"{name}.decode_ms")["value"] == pytest.approx(1000.0)
    assert extra(record, f"{name}.seconds_per_batch")["value"] == pytest.approx(105.0)
    assert record["value"] == pytest.approx(105.0 / BATCH)
    work = find_subject("2x32x2").work("float32", BATCH, (32 + 30.0, 3 + 30.0))
    share = extra(record, f"{name}.roofline_share")["value"]
    assert share == pytest.approx(max(work.bytes, work.flops) / 1e9)


def test_one_round_has_no_interval(options):
    record, _ = bench.latency(replace(options, repeats=1))
    assert record["interval"] is None and record["n"] == 1
    entry = extra(record, "2x32x2.float32.b2.images_per_s")
    assert entry["low"] is None and entry["value"] == pytest.approx(1 / record["value"])


def test_what_cannot_be_is_not_tried(options):
    with pytest.raises(core.NothingMeasured, match="16 tokens take 0 s at the machine's peak"):
        bench.latency(replace(options, budget=1e-9))


def test_used_up_memory_is_a_note_and_the_rest_goes_on(options, monkeypatch):
    """Told beforehand for the third batch, by the device itself for the second."""
    draw, free = configurations.Drawing.draw, 2**22

    def full(self, tokens):
        if self.batch == 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB\nand so on")
        return draw(self, tokens)

    monkeypatch.setattr(configurations.Drawing, "draw", full)
    monkeypatch.setattr(memory, "free_bytes", lambda _: free)
    record, _ = bench.latency(replace(options, batches=(BATCH, 3, 200)))
    names = {name.split(".")[2] for name in record["extra"] if name.startswith("2x32x2")}
    assert names == {"b2"}
    second, third = record["warnings"]
    assert second.startswith("2x32x2.float32.b3: out of memory: CUDA out of memory. Tried")
    assert "\n" not in second
    assert third.startswith("2x32x2.float32.b200: out of memory: needs 0.0 GiB, 0.0 are free")


def test_another_error_is_not_hidden(options, monkeypatch):
    def broken(self, tokens):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(configurations.Drawing, "draw", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        bench.latency(options)


def test_weights_that_do_not_fit_are_a_note(options, monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda _: 1000)
    with pytest.raises(core.NothingMeasured, match="out of memory: the weights need"):
        bench.latency(options)


def test_a_disturbed_run_is_repeated_once_and_told(options, monkeypatch):
    loads, runs = iter([0.9, 0.8]), []
    run_rounds = configurations.rounds.run_rounds

    class Busy(load.Load):
        def __exit__(self, *_):
            self.others = next(loads)

    def counted(*arguments):
        runs.append(1)
        return run_rounds(*arguments)

    monkeypatch.setattr(configurations, "Load", Busy)
    monkeypatch.setattr(configurations.rounds, "run_rounds", counted)
    monkeypatch.setattr(load.os, "cpu_count", lambda: 2)
    record, _ = bench.latency(options)
    assert len(runs) == 2 and extra(record, "2x32x2.float32.b2.load_of_others")["value"] == 0.8
    assert record["warnings"] == ["2x32x2.float32.b2: disturbed: others used 80% of the machine"]


def test_peers_are_timed_in_turn(options):
    pytest.importorskip("transformers")
    record, _ = bench.latency(replace(options, peers=True, new=16))
    name = "2x32x2.float32.b2"
    for measure in ("seconds_per_image_hf", "images_per_s_hf", "first_call_s_hf"):
        assert extra(record, f"{name}.{measure}")["value"] > 0
    ours, theirs = (extra(record, f"{name}.decode_ms{end}") for end in ("", "_hf"))
    gain = extra(record, f"{name}.gain_over_hf")
    if gain is not None:  # None: a step below zero, noise
        assert gain["low"] <= gain["value"] <= gain["high"]
        assert theirs["low"] / ours["high"] <= gain["value"] <= theirs["high"] / ours["low"]


def test_llamagen_is_timed_in_turn(options, tmp_path):
    """Its numbers, its gain and the digest of its code are in the record, its place is not."""
    folder = written_checkout(tmp_path / "checkout")
    record, path = bench.latency(replace(options, llamagen=folder, new=16))
    name = "2x32x2.float32.b2"
    for measure in ("seconds_per_image_llamagen", "first_call_s_llamagen"):
        assert extra(record, f"{name}.{measure}")["value"] > 0
    gain = extra(record, f"{name}.gain_over_llamagen")
    assert gain is None or gain["value"] > 0  # None: a step below zero, noise
    assert record["protocol"]["llamagen"] is True and record["protocol"]["peers"] is False
    assert len(record["system"]["config"]["llamagen"]["sha256"]) == 64
    assert "checkout" not in path.read_text()
    assert not any(key.endswith("_hf") for key in record["extra"])
    alone = bench.protocol_of(bench.resolved(options, "cpu"), [])
    assert "llamagen" not in alone and alone["peers"] is False  # the digests of before


def test_no_peer_beside_int8(options, tmp_path, monkeypatch):
    monkeypatch.setattr(configurations, "make_model", lambda *_: "ours")
    found = find_peers(False, written_checkout(tmp_path / "checkout"))
    runner = configurations.Runner("cpu", None, None, 3.0, 0.9, (1,), 1, 1.0, found)
    subject = find_subject("2x32x2", 16)
    assert configurations.models(runner, subject, "int8") == ("ours", {}, "")
    assert list(configurations.models(runner, subject, "float32")[1]) == ["llamagen"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_on_a_gpu(options):
    record, _ = bench.latency(replace(options, device="cuda", dtypes=("float32", "bfloat16")))
    assert record["environment"]["device"].startswith("cuda")
    for dtype in ("float32", "bfloat16"):
        assert 0 < extra(record, f"2x32x2.{dtype}.b2.peak_memory_gib")["value"] < 1


def test_quick_is_another_protocol():
    """Whatever it shares with a full run, no two of its numbers stand in one column."""
    whole, quick = (
        bench.resolved(bench.Options(quick=quick, device="cpu"), "cpu") for quick in (False, True)
    )
    made = [
        bench.protocol_of(one, [find_subject(name, one.new) for name in one.sizes])
        for one in (whole, quick)
    ]
    assert core.digest(made[0]) != core.digest(made[1])
    assert set(quick.sizes) < set(whole.sizes) and quick.budget < whole.budget
    kept = bench.resolved(bench.Options(quick=True, repeats=7), "cpu")
    assert kept.repeats == 7  # what is given stays
    assert not {"350m", "760m", "7b"} & set(whole.sizes)


def test_the_largest_sizes_are_a_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    on_gpu = bench.resolved(bench.Options(), "cuda")
    assert {"350m", "760m", "7b"} < set(on_gpu.sizes)
    assert on_gpu.dtypes == ("float32", "bfloat16", "int8")


@pytest.mark.parametrize(
    "argv,said",
    [
        (["--sizes", "huge"], "unknown size 'huge'; known are"),
        (["--batches", "0"], "--batches must be at least 1, got (0,)"),
        (["--batches", "1", "1"], "--batches must be different values, got [1, 1]"),
        (["--dtypes", "float8"], "unknown dtype 'float8'; known are float32, bfloat16, int8"),
        (["--device", "cuda:99"], "device 'cuda:99' is not there"),
        (["--device", "meta"], "device 'meta' is not there; use 'cpu'"),
        (["--repeats", "0"], "--repeats must be at least 1, got 0"),
        (["--threads", "0"], "--threads must be at least 1, got 0"),
        (["--budget", "nan"], "--budget must be positive seconds, got nan"),
        (["--new", "3"], "--new must be at least 8, got 3"),
        (["--top-p", "0"], "decode.top_p must lie in (0, 1], got 0.0"),
        (["--guidance", "inf"], "decode.guidance must be finite"),
        (
            ["--llamagen", "nowhere"],
            "nowhere has no autoregressive/models/gpt.py; --llamagen takes",
        ),
        (["--llamagen", ".", "--guidance", "0"], "--llamagen needs --guidance of at least 1, got"),
        (["--sizes", "2x32x2", "--new", "9999"], "has room for 2016 tokens"),
    ],
)
def test_bad_input_is_one_line(options, capsys, argv, said):
    assert bench.main([*argv, *folders(options)]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not options.results.exists()


def test_the_record_names_its_weights(options):
    """Random ones are named so, shipped ones by their digest."""
    from cm3leon.checkpoint import digest

    subject = find_subject("scenes-xs")
    system = bench.Timed([subject, find_subject("2x32x2")])
    assert system.config["scenes-xs"]["weights"] == digest(subject.folder)
    assert system.config["2x32x2"]["weights"] == "random"
    assert json.dumps(core.plain(system.config))
    with pytest.raises(UserError):
        bench.usable_device("nowhere")
