"""The command line as a user meets it: exit codes, one-line errors, files, and no slow imports."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from cm3leon.cli import main as cli
from cm3leon.loading import load_system
from cm3leon.seeds import derive
from tests.test_pipeline import write_tiny_baselines


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("baselines")
    write_tiny_baselines(folder)
    return folder


@pytest.fixture
def run(home, monkeypatch, tmp_path, capsys):
    """Run a command in an empty folder; returns (exit code, stdout, stderr)."""
    monkeypatch.setenv("CM3LEON_BASELINES", str(home))
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        code = cli.main(list(arguments))
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def subprocess_run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=120,
    )


def test_draw_writes_what_the_system_draws(run, tmp_path, home):
    code, out, _ = run("draw", "a red star", "--out", "sub/star.png", "--seed", "5")
    assert (code, out) == (0, "sub/star.png\n")
    system = load_system(home / "scenes" / "scenes-s")
    with Image.open(tmp_path / "sub" / "star.png") as image:
        expected = system.draw(["a red star"], [derive(5, "a red star", 0)])[0]
        assert np.array_equal(np.asarray(image), expected)
        assert image.text["prompt"] == "a red star"
        assert image.text["weights_sha256"] == system.weights_sha256
        assert (image.text["seed"], image.text["system"]) == ("5", "scenes-s")


def test_draw_many_in_a_grid(run, tmp_path):
    assert run("draw", "a star", "--count", "3", "--guidance", "2")[0] == 0
    assert run("draw", "a star", "--out", "one.png", "--guidance", "2")[0] == 0
    with Image.open(tmp_path / "drawing.png") as grid, Image.open(tmp_path / "one.png") as one:
        assert grid.size == (66, 66)  # 2 x 2 of 32 pixels, lines between, the last place empty
        pixels = np.asarray(grid)
        assert np.array_equal(pixels[:32, :32], np.asarray(one))
        assert (pixels[32:34] == 255).all() and (pixels[:, 32:34] == 255).all()
        assert not pixels[34:, 34:].any()


def test_same_command_same_bytes(run, tmp_path):
    for name in ("a.png", "b.png"):
        run("draw", "a blue circle", "--out", name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["draw", "x", "--system", "scenes-z"], "unknown model 'scenes-z'; shipped are: scenes-s"),
        (
            ["draw", "x", "--guidanc", "3"],
            "Unrecognized options: --guidanc, 3; did you mean --guidance",
        ),
        (["draw", "x", "--count", "many"], "--count"),
        (["draw", "x", "--count", "0"], "count must lie in [1, 65,536], got 0"),
        (["draw", "x", "--out", "x.jpg"], "pictures are written as PNG, x.jpg would be a .jpg"),
        (["draw", "x", "--bank", "no"], "scenes-s was trained without retrieval; leave --bank no"),
        (["draw", "a \udcff star"], "prompt must be UTF-8, which character 3 of"),
        (["draw", "x", "--system", "sc\x1b[2Jenes"], "unknown model 'sc\\x1b[2Jenes'"),
        (["draw", "x", "--system", "a\x1b/b"], "no model at a\\x1b/b"),
        (["draw", "x", "--top-p", "2"], "decode.top_p must lie in (0, 1], got 2.0"),
        (["draw", "x", "--device", "abacus"], "got 'abacus'"),
        (["draw", "star " * 200], "shorten it"),
        (["draw", "x", "--out", "/proc/nowhere/x.png"], "cannot write /proc/nowhere/x.png"),
        (["export-scenes", "out", "--size", "33"], "33"),
        (["export-scenes", "out", "--count", "0"], "count must lie in [1, 1,000,000,000], got 0"),
        (["export-scenes", "out", "--split", "best"], "'best'"),
        (
            ["export-scenes", "out", "--kind", "signs", "--split", "tail"],
            "no split 'tail' of signs",
        ),
        (["paint"], "paint"),
        ([], "draw"),
        (["draw"], "draw"),
    ],
)
def test_mistakes_get_one_line_and_exit_code_2(run, tmp_path, arguments, message):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1
    assert message in err
    assert not list(tmp_path.iterdir())


def test_a_grid_that_is_too_large_is_refused_before_it_is_drawn(run, monkeypatch):
    monkeypatch.setattr("cm3leon.images.MOST_PIXELS", 32 * 32 * 3)
    monkeypatch.setattr("cm3leon.pipeline.System.draw", lambda *_: pytest.fail("drawn"))
    code, _, err = run("draw", "x", "--count", "4")
    assert (code, err) == (2, "error: a grid holds 3 pictures of 32 x 32 pixels, got 4\n")


def test_a_lack_of_memory_is_one_line(run, monkeypatch):
    def greedy(*_, **__):
        return np.empty(2**62, np.uint8)

    monkeypatch.setattr("cm3leon.loading.load_system", greedy)
    code, _, err = run("draw", "x")
    assert code == 2 and err.startswith("error: not enough memory (Unable to allocate 4.00 EiB")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), 2),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), 2),
        (RuntimeError("another fault of ours"), None),
    ],
)
def test_a_device_without_memory_left(error, code, capsys):
    def command():
        raise error

    if code is None:
        with pytest.raises(RuntimeError, match="another fault"):
            cli.guarded(command)
        return
    assert cli.guarded(command) == code
    said = capsys.readouterr().err
    assert said.startswith("error: not enough memory (") and said.count("\n") == 1


def test_doctor_names_weights_and_faults(run, home, tmp_path, monkeypatch):
    code, out, _ = run("doctor")
    assert code == 0
    assert "scenes-s (transformer) sha256" in out and "vq (vq)" in out and "torch" in out
    monkeypatch.setenv("CM3LEON_BASELINES", str(tmp_path))
    code, out, _ = run("doctor")
    assert code == 2
    assert any(line.startswith("! ") and "no weights under" in line for line in out.splitlines())


def test_interrupted(run, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("cm3leon.loading.load_system", stop)
    code, _, err = run("draw", "x")
    assert (code, err) == (130, "interrupted\n")


INTERRUPTED = """
import os, signal, sys
from cm3leon.cli.main import guarded
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
def command():
    print("begun")
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:  # as compiled code that cannot pass it on
        return 7
sys.exit(guarded(command))
"""


def test_an_interrupt_is_no_exception_inside_a_command():
    done = subprocess_run("-c", INTERRUPTED)
    assert (done.returncode, done.stdout, done.stderr) == (130, "begun\n", "interrupted\n")


@pytest.fixture
def interruptible():
    """SIGINT as Python starts with it, whatever the shell says."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_ends_processes_of_ours_first(interruptible, monkeypatch, capsys):
    monkeypatch.setattr("multiprocessing.active_children", lambda: ["a worker"])
    assert cli.guarded(lambda: os.kill(os.getpid(), signal.SIGINT)) == 130
    assert capsys.readouterr().err == "interrupted\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_console_exit_codes(home):
    arguments = ["-m", "cm3leon.cli.main", "draw", "x", "--top-p", "2"]
    done = subprocess_run(*arguments, CM3LEON_BASELINES=str(home))
    assert done.returncode == 2
    assert (
        done.stderr.startswith("error: decode.top_p must lie in") and "Traceback" not in done.stderr
    )


def test_help_needs_no_heavy_import():
    code = """
import sys
from cm3leon.cli.main import main
for command in [], ["draw"], ["doctor"], ["export-scenes"]:
    try:
        main([*command, "--help"])
    except SystemExit as stop:
        assert not stop.code
heavy = {"torch", "pandas", "matplotlib", "tokenizers", "PIL", "scipy"}
sys.exit(sorted(heavy & set(sys.modules)) or 0)
"""
    done = subprocess_run("-c", code)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("usage: cm3leon") == 4


def test_import_is_light():
    code = "import cm3leon, sys; print({'numpy', 'torch', 'tyro'} & set(sys.modules))"
    done = subprocess_run("-c", code)
    assert (done.returncode, done.stdout) == (0, "set()\n")


def test_export_scenes(run, tmp_path):
    code, out, _ = run("export-scenes", "world", "--count", "3")
    assert (code, out) == (0, "world\n")
    assert len(list((tmp_path / "world").rglob("*.png"))) == 3
    assert list((tmp_path / "world").rglob("captions_*.json"))
    more = ("--kind", "vqa", "edits", "--sheet", "sheet.png", "--split", "natural")
    code, out, _ = run("export-scenes", "other", "--count", "2", *more)
    assert (code, out) == (0, "other\n") and (tmp_path / "sheet.png").is_file()
    assert len(list((tmp_path / "other" / "natural").iterdir())) == 2
    assert (tmp_path / "other" / "edits" / "seeds.json").is_file()


def write_tiny_clip(home):
    """A CLIP with random weights beside the tiny tokenizers."""
    from cm3leon import seeds
    from cm3leon.checkpoint import save
    from cm3leon.clip import ClipConfig, make_clip
    from cm3leon.tokenizers.text import TextTokenizer

    text = TextTokenizer.load(home / "scenes" / "text")
    shape = ClipConfig(
        width=16, heads=2, image_layers=1, text_layers=1, image_size=16, text_size=text.size
    )
    with seeds.torch_default(0, "clip"):
        model = make_clip(shape)
    extra = {"text_sha256": text.digest}
    save(home / "scenes" / "clip", "clip", shape, model.state_dict(), extra)


def test_encode_and_index(run, tmp_path, home):
    from cm3leon.data.token_cache import TokenCache
    from cm3leon.retrieval.bank import MemoryBank

    write_tiny_clip(home)
    code, out, err = run("encode", "scenes:stock/bank:0:9", "cache")
    assert (code, out) == (0, "9 documents in cache, 0 not readable\n"), err
    assert run("encode", "scenes:stock/bank:0:9", "cache")[0] == 0  # finished: nothing to do
    code, out, err = run("index", "cache", "bank")
    assert (code, out) == (0, "9 documents of width 16 in bank, exact search\n"), err
    bank, cache = MemoryBank.load(tmp_path / "bank"), TokenCache(tmp_path / "cache")
    assert bank.ids == cache.ids and len(bank) == 9
    mean = cache.vectors("image_vectors") + cache.vectors("text_vectors")
    assert bank.vectors == pytest.approx(mean / np.linalg.norm(mean, axis=1, keepdims=True))
    code, out, _ = run("index", "cache", "bank", "--exact", "5")
    assert (code == 0 and "recall@10 1.000" in out) or "recall@10 0.9" in out


def test_encode_names_what_it_cannot_read(run, tmp_path):
    for name in ("a", "b"):
        Image.new("RGB", (20, 30), "red").save(tmp_path / f"{name}.png")
    (tmp_path / "a.txt").write_text("red")
    code, out, err = run("encode", ".", "cache", "--clip", "none")
    assert (code, out) == (0, "1 documents in cache, 1 not readable\n")
    assert err.endswith("not readable: b.png: no caption b.txt beside it\n")
    code, _, err = run("index", "cache", "bank")
    assert (
        code == 2 and err == "error: cache was encoded without a CLIP; encode it again with one\n"
    )
    code, _, err = run("encode", "nowhere", "new")
    assert (code, err.count("\n")) == (2, 1) and err.startswith("error: no source at nowhere")
    assert not (tmp_path / "new").exists()
    assert run("index", "nowhere", "bank")[2].startswith("error: cannot read nowhere/cache.json")
