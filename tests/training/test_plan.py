"""What a training takes on GPUs: the plan at the paper's sizes, and against real processes."""

import resource
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cm3leon.config import MODELS, ModelConfig, TrainConfig, VocabularyConfig, paper_recipe
from cm3leon.errors import UserError
from cm3leon.training.estimate import Estimate, Plan, find_gpu, pieces_of, schedule


def plan(name: str, gpus: int, gpu: str = "h100", **changes) -> Plan:
    train = schedule(paper_recipe(name), 4096.0, None, {})
    peak, memory = find_gpu(gpu)
    estimate = Estimate(MODELS[name](), train, 4096.0, pieces_of(train.batch, 4096.0))
    return Plan(estimate, gpus, memory, peak, **changes)


def test_the_paper_s_largest_model_on_sixty_four():
    """16 bytes a parameter in 64 parts; 2.4T tokens at 40 % of 64 x 989 TFLOP/s are 44 days."""
    found = plan("7b", 64)
    parts = found.parts()
    assert found.pieces == 4
    state = parts["weights"] + parts["gradients"] + parts["optimiser"]
    assert state == pytest.approx(16 * found.estimate.parameters / 64)
    assert found.hours == pytest.approx(9.69e22 / (64 * 989e12 * 0.4) / 3600, rel=1e-3)
    assert not found.fits and found.rows_at_once == 8
    lines = found.lines("h100")
    assert lines[0].startswith("memory of each of 64 h100: ") and "does not fit" in lines[-1]
    name, way = found.ways_out()[0]
    assert name == "--accumulate 1953" and way.fits and way.rows_at_once == 2
    assert f"{name} makes it fit" in lines[-1]


def test_what_no_option_makes_fit_is_said():
    found = plan("7b", 1, "v100")
    small = replace(found.estimate, train=replace(found.estimate.train, batch=1), accumulate=1)
    lines = replace(found, estimate=small).lines("v100")
    assert "more memory is needed" in lines[-1]


@given(st.sampled_from(["350m", "760m", "7b"]), st.integers(0, 8), st.booleans())
def test_more_gpus_hold_less_each_and_are_faster(name, power, recompute):
    few, many = (plan(name, 2**at, recompute=recompute) for at in (power, power + 1))
    if power:  # one alone gathers nothing
        assert many.bytes < few.bytes
    assert many.hours == pytest.approx(few.hours / 2)
    assert plan(name, 2**power, recompute=True).bytes < plan(name, 2**power).bytes
    assert plan(name, 2**power, mfu=0.2).hours == pytest.approx(2 * plan(name, 2**power).hours)


def test_whole_models_cost_memory():
    spread, beside = plan("7b", 64, replicas=1).parts(), plan("7b", 64, replicas=8).parts()
    assert beside["weights"] == 8 * spread["weights"]
    assert beside["activations"] == spread["activations"]


def test_muon_holds_one_moment_of_matrices():
    adamw = plan("350m", 1)
    muon = replace(adamw.estimate.train, optimizer="muon")
    found = replace(adamw, estimate=replace(adamw.estimate, train=muon)).parts()
    assert "products" not in found  # the backward pass takes more
    blocks = 12 * 24 * 1024**2
    assert adamw.parts()["optimiser"] - found["optimiser"] == pytest.approx(4 * blocks)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: find_gpu("h1000"), "unknown GPU 'h1000'; known are v100, a100"),
        (lambda: plan("7b", 4096), "4096 GPUs need a --batch of as many rows, got 1953"),
        (lambda: plan("7b", 64, replicas=7), "--replicas 7 must divide 64 GPUs"),
    ],
)
def test_plans_that_cannot_be(make, message):
    with pytest.raises(UserError, match=message):
        make()


MEASURED = ModelConfig(
    "measured", layers=12, width=512, heads=8, context=256, init_std=0.02,
    vocabulary=VocabularyConfig(8000, 1024, 16, 64),
)  # fmt: skip


def peak_of(size: int, measured: "Measured") -> float:
    """Bytes that the fullest of some processes takes for a training beyond what it began with."""
    from tests.training.rank_processes import start_work

    folder = measured.folder
    said = start_work(size, measured, folder, patience_s=3000)
    assert [code for code, _ in said] == [0] * size, said
    return max(float((folder / f"peak-{rank}").read_text()) for rank in range(size))


class Measured:
    """Steps of rows of 128 tokens; every rank writes the peak of the first two, of no save."""

    def __init__(self, folder: Path, recompute: bool, model=MEASURED, rows: int = 16):
        self.folder, self.recompute, self.model = folder, recompute, model
        self.train = TrainConfig(
            steps=3, batch=rows, warmup=1, precision="float32", save_every=9, eval_every=9
        )

    def plan(self, size: int) -> Plan:
        """What so many processes should take."""
        estimate = Estimate(self.model, self.train, 128.0)
        assert self.model.parameters == estimate.parameters
        return Plan(estimate, size, 1e12, 1e12, recompute=self.recompute, half=False, fused=False)

    def __call__(self) -> int:
        from cm3leon.training import loop, parallel

        loop.keep_memory = lambda device: None  # what is freed goes back: peaks are what is held
        return parallel.together("cpu", None, self.trained)

    def trained(self, team) -> int:
        """Train a narrow model first: what is loaded and laid out by a first step is no part of
        what a model takes.
        """
        narrow = replace(self.model, layers=2, width=64, heads=8)
        self.steps(team, narrow, "narrow")
        before = Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0]
        self.steps(team, self.model, "run", int(before))
        return 0

    def steps(self, team, config: ModelConfig, name: str, before: int | None = None) -> None:
        """Train three steps; with `before` (KiB) the peak of two beyond it is written."""
        import torch

        from cm3leon.sequence.documents import Vocabulary
        from cm3leon.training import parallel
        from cm3leon.training.batches import token_loss, totals
        from cm3leon.training.loop import Problem, train

        vocabulary, count = Vocabulary.from_config(config.vocabulary), self.train.batch

        def rows(step: int, part: slice = slice(None)) -> dict:
            if step == 3 and before is not None:
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
                (self.folder / f"peak-{team.rank}").write_text(str(1024 * peak))
            ids_BT = (torch.arange(count * 128).view(count, 128) * step % 7000)[part]
            places_BT = torch.arange(128).expand_as(ids_BT)
            batch = {"ids_BT": ids_BT, "weights_BT": torch.ones(ids_BT.shape)}
            batch |= {"positions_BT": places_BT, "counts": dict(COUNTS, seen=ids_BT.numel())}
            return batch | {"totals": totals(batch, vocabulary)}

        model = team.transformer(config, self.train, "cpu", drawn=False)
        with torch.no_grad():
            for weight in model.parameters():
                parallel.own(weight).fill_(0.01)
        model.recompute = self.recompute
        problem = Problem(token_loss(vocabulary), team.dealt(rows))
        train(model, problem, self.train, self.folder / name, ranks=team)


COUNTS = {
    f"{kind}_{what}": 1 for kind in ("text", "image") for what in ("segments", "masked", "full")
} | {"rows": 1, "cut": 0}  # fmt: skip


@pytest.mark.full
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_peaks_of_processes_are_the_plan_s(tmp_path, size, recompute):
    """12x512: about 0.6 GB of state, and as much again of activations."""
    asked = Measured(tmp_path, recompute)
    found, measured = asked.plan(size), peak_of(size, asked)
    print(f"{size} processes: {measured / 1e9:.3f} GB measured, {found.bytes / 1e9:.3f} planned")
    assert found.bytes == pytest.approx(measured, rel=0.15), found.parts()


@pytest.mark.full
def test_350m_by_two_processes_takes_what_the_plan_says(tmp_path):
    """Three steps of the paper's smallest model, two rows of 128 tokens: about 4 GB a process."""
    asked = Measured(tmp_path, False, replace(MODELS["350m"](), context=256), rows=2)
    found = asked.plan(2)
    free = Path("/proc/meminfo").read_text().partition("MemAvailable:")[2].split()[0]
    if 1024 * int(free) < 1.5 * 2 * found.bytes:
        pytest.skip(f"needs {3 * found.bytes / 1e9:.0f} GB of free memory")
    measured = peak_of(2, asked)
    print(f"350m: {measured / 1e9:.3f} GB measured, {found.bytes / 1e9:.3f} planned")
    assert measured < 1.15 * found.bytes


def test_a_step_of_350m_needs_no_memory_on_the_meta_device(monkeypatch):
    """Every operation of a step has a shape: forward, backward and the change of all weights."""
    import torch
    import torch.fx.experimental._config as shapes_alone

    from cm3leon.model.transformer import Transformer
    from cm3leon.training.optimizer import make_optimizer

    # Real tokens are counted by a mask, whose values are not known here: all are real.
    monkeypatch.setattr(shapes_alone, "meta_nonzero_assume_all_nonzero", True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with torch.device("meta"):
        model = Transformer(MODELS["350m"]())
    optimizer = make_optimizer(model, TrainConfig(precision="float32"))
    for group in optimizer.param_groups:
        group["fused"] = False  # of devices that compute
    ids_BT = torch.zeros(2, 4096, dtype=torch.long, device="meta")
    losses = torch.nn.functional.cross_entropy(model(ids_BT).flatten(0, 1), ids_BT.flatten())
    losses.backward()
    optimizer.step()
    shapes = {name: value.grad.shape for name, value in model.named_parameters()}
    assert shapes == {name: value.shape for name, value in model.named_parameters()}
    assert {str(state["exp_avg"].device) for state in optimizer.state.values()} == {"meta"}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024  # KiB


@pytest.mark.full
def test_7b_s_weights_are_read_from_their_files_without_memory(tmp_path):
    """13.5 GB of bfloat16 in three files, which are holes on disk: read, checked and mapped."""
    import json

    import torch

    from cm3leon import checkpoint
    from cm3leon.files import sha256_file
    from cm3leon.model.transformer import Transformer

    config = MODELS["7b"]()
    with torch.device("meta"):
        own = Transformer(config).state_dict()
    sizes = {name: checkpoint.stored_bytes(value, torch.bfloat16) for name, value in own.items()}
    files, digests = checkpoint.weight_files(sizes), {}
    assert len(files) == 3 and sum(sizes.values()) > 13e9
    for file, names in files.items():
        end, header = 0, {}
        for name in names:
            place = {"dtype": "BF16", "shape": list(own[name].shape)}
            header[name] = place | {"data_offsets": [end, end + sizes[name]]}
            end += sizes[name]
        head = json.dumps(header).encode()
        with open(tmp_path / file, "wb") as out:
            out.write(len(head).to_bytes(8, "little") + head)
            out.truncate(8 + len(head) + end)
        digests[file] = sha256_file(tmp_path / file)
    checkpoint.finish(tmp_path, "transformer", config, files, digests)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    _, tensors, _ = checkpoint.load(tmp_path, "transformer")
    assert {name: value.shape for name, value in tensors.items()} == {
        name: value.shape for name, value in own.items()
    }
    assert all(value.view(-1)[-1] == 0 for value in tensors.values())
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 2**20  # KiB: of 13.5 GB less than one
