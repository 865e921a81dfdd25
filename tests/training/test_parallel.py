"""Trainings in several processes on gloo: the same losses for any number, whoever dies when."""

from dataclasses import replace

import pytest
import torch

from cm3leon import checkpoint, seeds
from cm3leon.errors import UserError
from cm3leon.model.transformer import Transformer
from cm3leon.training import parallel
from tests.training.rank_processes import MODEL, TRAIN, Case, source, start, trained

CLOSE = 1e-6  # relative, of losses
MUON = replace(TRAIN, optimizer="muon")
FINE = 0  # exit code


def run(size: int, case: Case) -> Case:
    """A training that must end well, and quietly but for the first rank."""
    said = start(size, case)
    assert [code for code, _ in said] == [FINE] * size, said
    assert not any(text for _, text in said[1:])
    return case


def weights(case: Case) -> dict:
    return checkpoint.load(case.folder / "model", "transformer")[1]


def left(case: Case) -> set[str]:
    """What lies in the folder of the run."""
    return {path.name for path in (case.folder / "run").iterdir()}


def errors(said: list) -> list[str]:
    """The lines of errors of all ranks."""
    return [line for _, text in said for line in text.splitlines() if "error: " in line]


def died_alone(said: list, dead: int) -> None:
    """A rank was killed; the others say so in one line of one rank, unless it held their store."""
    assert said[dead][0] == -9
    assert {code for rank, (code, _) in enumerate(said) if rank != dead} == {2}
    lines = errors(said)
    assert len(lines) == 1 or (dead == 0 and lines)
    assert all(f"rank {dead} died (process" in line for line in lines)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Trainings in one process, by their settings."""
    done = {}

    def find(**changes) -> Case:
        key = repr(changes)
        if key not in done:
            case = Case(tmp_path_factory.mktemp("alone"), export=True, **changes)
            assert trained(case, parallel.ALONE) == 0
            done[key] = case
        return done[key]

    return find


CASES = {
    "adamw": {"accumulate": 3},
    "muon": {"train": MUON, "recompute": True},
}


@pytest.mark.parametrize("name, size", [("adamw", 3), ("muon", 2)])
def test_losses_are_those_of_one_process(alone, tmp_path, name, size):
    """Rows of 1 to 3 documents, packed; 7 of them, in 3 pieces or one; a tied table of 61 rows."""
    one, many = alone(**CASES[name]), Case(tmp_path, export=True, **CASES[name])
    run(size, many)
    assert many.losses() == pytest.approx(one.losses(), rel=CLOSE)
    first, drawn = weights(one), Transformer(MODEL, seeds.torch_generator(1, "init"))
    for key, value in weights(many).items():
        assert torch.allclose(value.float(), first[key].float(), rtol=2e-2, atol=1e-5)
    rows = weights(many)["token_embedding.weight"].float() - drawn.token_embedding.weight
    assert rows.abs().amax(1).gt(0).sum() >= 59  # but for <pad>, which is nowhere
    assert many.samples() == one.samples() and set(one.samples()) == {1, 2, 3, 4}
    log, known = many.log(), one.log()
    assert log[-1]["ranks"] == size and log[-1]["memory_gb"] > 0
    for here, there in zip(log, known, strict=True):
        same = set(there) - {"seconds", "tokens_per_s", "steps_per_s"}
        assert {key: here[key] for key in same} == pytest.approx(
            {key: there[key] for key in same}, rel=1e-5
        )


@pytest.mark.full
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("size", [2, 3, 4])
def test_thirty_steps(alone, tmp_path, name, size):
    changes = dict(CASES[name])
    changes["train"] = replace(changes.get("train", TRAIN), steps=30, save_every=10)
    one, many = alone(**changes), Case(tmp_path, **changes)
    run(size, many)
    assert many.losses() == pytest.approx(one.losses(), rel=CLOSE)


def test_whole_models_beside_one_another(alone, tmp_path):
    """HSDP: two models of two ranks each."""
    one, many = alone(train=MUON, recompute=True), Case(tmp_path, train=MUON, replicas=2)
    run(4, many)
    assert many.losses() == pytest.approx(one.losses(), rel=CLOSE)


def test_killed_and_gone_on_with_other_numbers(alone, tmp_path):
    """The same samples are in the same steps, and nothing half-written stays."""
    steps = replace(TRAIN, steps=8)
    one, many = alone(train=steps), Case(tmp_path, train=steps)
    for size, dies in ((2, (1, "rows", 4)), (3, (2, "save", 4)), (2, (0, "named", 6))):
        said = start(size, replace(many, dies=dies))
        died_alone(said, dies[0])
    run(1, replace(many, train=steps, dies=(0, "rows", 99)))
    assert many.losses() == pytest.approx(one.losses(), rel=CLOSE)
    assert left(many) == {"log.jsonl", "state.json", "state-00000008.safetensors"}
    # Steps that were made twice read the same twice.
    for step, rows in many.samples().items():
        assert {tuple(row) for row in rows} == {tuple(row) for row in one.samples()[step]}


def test_the_same_number_gives_the_same_bytes(tmp_path):
    whole = run(2, Case(tmp_path / "whole", train=MUON, export=True))
    broken = replace(whole, folder=tmp_path / "broken")
    (first, _), (second, _) = start(2, replace(broken, dies=(1, "rows", 4)))
    assert (first, second) == (2, -9)
    run(2, broken)
    assert checkpoint.digest(broken.folder / "model") == checkpoint.digest(whole.folder / "model")


def test_a_loss_that_is_not_finite_is_told_with_its_rank(tmp_path):
    case = Case(tmp_path, poisoned=(1, 3))
    said = start(2, case)
    assert [code for code, _ in said] == [2, 2]
    (line,) = errors(said)
    assert "loss is nan at step 3 on rank 1 (rows i of its batch, i mod 2 = 1)" in line
    assert checkpoint.read_state(tmp_path / "run" / "state.json")["position"]["step"] == 2


def test_ranks_with_other_data_are_refused(tmp_path):
    said = start(2, Case(tmp_path, about={1: {"data": "others"}}))
    assert [code for code, _ in said] == [2, 2]
    text = "".join(text for _, text in said)
    assert "rank 1 on" in text and "has data = 'others', rank 0 has 'made up'" in text
    assert text.count("error: ") == 1 and not list((tmp_path / "run").glob("state*"))


def test_more_ranks_than_rows(tmp_path):
    said = start(3, Case(tmp_path, train=replace(TRAIN, batch=2)))
    (line,) = errors(said)
    assert [code for code, _ in said] == [2] * 3
    assert "a batch of 2 rows has none for some of 3 ranks" in line


@pytest.mark.full
def test_twenty_kills(alone, tmp_path):
    """Of random ranks in random steps, five of them in a save; then an unbroken end."""
    steps = replace(TRAIN, steps=60, save_every=2)
    one, many, draws = alone(train=steps), Case(tmp_path, train=steps), seeds.generator(0, "kills")
    for kill in range(20):
        size = int(draws.integers(2, 5))
        stands = tmp_path / "run" / "state.json"
        done = checkpoint.read_state(stands)["position"]["step"] if stands.exists() else 0
        step = done + int(draws.integers(1, 5))
        where = "rows"
        if kill % 4 == 3:
            where, step = ("save", "named")[kill % 8 == 3], step + step % 2
        rank = 0 if where == "named" else int(draws.integers(0, size))
        died_alone(start(size, replace(many, dies=(rank, where, step))), rank)
    run(2, many)
    assert many.losses() == pytest.approx(one.losses(), rel=CLOSE)
    assert left(many) == {"log.jsonl", "state.json", "state-00000060"}
    for step, rows in many.samples().items():
        assert {tuple(row) for row in rows} == {tuple(row) for row in one.samples()[step]}


@pytest.mark.parametrize("part", [slice(0, None, 2), slice(1, None, 3), slice(2, 5)])
def test_a_part_of_a_batch_holds_the_same_rows(tmp_path, part):
    """And nothing is read of the others."""
    told = tmp_path / "read"
    read = source(MODEL, TRAIN, told, lambda step: None).rows
    for step in (1, 5, 9):
        whole, mine = read(step), None
        told.unlink(missing_ok=True)
        mine = read(step, part)
        assert len(told.read_text().splitlines()) == len(range(7)[part])
        for name in ("ids_BT", "weights_BT", "positions_BT"):
            ours, theirs = mine[name], whole[name][part]
            shorter = min(ours.shape[1], theirs.shape[1])
            assert torch.equal(ours[:, :shorter], theirs[:, :shorter])
        assert mine["weights_BT"].sum() == whole["weights_BT"][part].sum()
        assert mine["counts"]["rows"] == len(range(7)[part])


def test_rows_lie_as_torch_chunks_them():
    for rows in (1, 2, 5, 9, 64):
        for size in (1, 2, 3, 7):
            chunks = [len(one) for one in torch.arange(rows).chunk(size)]
            found = [parallel.len_of(rows, size, rank) for rank in range(size)]
            assert found == chunks + [0] * (size - len(chunks))


def test_without_torchrun_replicas_are_refused(monkeypatch):
    for name in parallel.ranks.NEEDED:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="--replicas 2 needs as many processes"):
        parallel.together("cpu", 2, lambda team: 0)
    assert parallel.together("cpu", 1, lambda team: team is parallel.ALONE)


def test_a_damaged_state_of_many_is_refused(tmp_path):
    case = Case(tmp_path)
    died_alone(start(2, replace(case, dies=(1, "rows", 3))), 1)
    (state,) = (path for path in (tmp_path / "run").iterdir() if path.is_dir())
    file = sorted(state.glob("shard-*"))[0]
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    for size in (1, 2):
        said = start(size, case)
        assert [code for code, _ in said] == [2] * size and len(errors(said)) == 1
        assert f"{file} is damaged" in errors(said)[0]


def test_weights_in_several_files(tmp_path):
    """Written by two ranks, read by whoever reads one file."""
    one = run(2, Case(tmp_path / "one", export=True, train=replace(TRAIN, steps=2)))
    many = run(2, Case(tmp_path / "many", export=True, train=one.train, shard_bytes=4000))
    files = sorted(path.name for path in (many.folder / "model").glob("*.safetensors"))
    assert len(files) > 2 and files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    first, second = weights(one), weights(many)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    (many.folder / "model" / files[1]).unlink()
    with pytest.raises(UserError, match=files[1]):
        weights(many)
