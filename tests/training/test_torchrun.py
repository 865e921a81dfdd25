"""The command under torchrun's own agent: killed and taken up again, and what it leaves draws."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from cm3leon.cli.main import main
from cm3leon.training import ranks
from tests.guard import entry_points as at
from tests.guard.test_training import SHAPE
from tests.training.rank_processes import free_port, start_work

OPTIONS = [
    "train", "cache", "--model", "tiny.json", "--tokenizers", "home", "--precision", "float32",
    "--steps", "6", "--batch", "5", "--warmup", "1", "--save-every", "2", "--log-every", "1",
    "--eval-every", "3", "--hold-out", "2", "--optimizer", "muon", "--device", "cpu",
]  # fmt: skip


@dataclass(frozen=True)
class Agent:
    """torchrun with its ranks forked: nothing is imported again."""

    folder: Path
    size: int
    options: tuple[str, ...]
    launcher: tuple[str, ...] = ()

    def __call__(self) -> int:
        from torch.distributed import run
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.launcher.api import elastic_launch

        os.chdir(self.folder)
        for name in ranks.NEEDED:
            os.environ.pop(name, None)
        arguments = ["--start-method", "fork", "--nproc-per-node", str(self.size)]
        arguments += [
            "--master-port",
            str(free_port()),
            *self.launcher,
            "-m",
            "--",
            "cm3leon",
            *self.options,
        ]
        config, _, rest = run.config_from_args(run.parse_args(arguments))
        assert rest[1:3] == ["-m", "cm3leon"]
        try:
            elastic_launch(config, entry)(rest[3:])
        except ChildFailedError:
            return 1
        return 0


def entry(options: list[str]) -> None:
    """A rank; the second one of the first attempt is killed as it begins to save step 4."""
    if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and os.environ["RANK"] == "1":
        from cm3leon.training import parallel

        write = parallel.write

        def deadly(folder, tensors, told):
            if folder.name.startswith("state-00000004"):
                os.kill(os.getpid(), signal.SIGKILL)
            write(folder, tensors, told)

        parallel.write = deadly
    raise SystemExit(main(options))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a token cache of 24 scenes and a model's shape."""
    monkeypatch.chdir(tmp_path)
    source = "scenes:stock/train:0:24"
    assert at.command("train-text", source, "--out", "home/text", "--size", "300") == 0
    at.write_image_tokenizer(tmp_path / "home")
    assert at.command("encode", source, "cache", "--tokenizers", "home") == 0
    Path("tiny.json").write_text(json.dumps(SHAPE))
    return tmp_path


@pytest.mark.full
def test_killed_taken_up_again_drawn_with_and_exported(place):
    assert at.command(*OPTIONS, "--out", "alone") == 0
    again = Agent(place, 2, (*OPTIONS, "--out", "many"), ("--max-restarts", "1"))
    ((code, said),) = start_work(1, again, place, patience_s=500)
    assert code == 0, said
    assert said.count("error: ") == 1 and "error: rank 1 died (process" in said
    one, many = (
        (place / name / "log.jsonl").read_text().splitlines() for name in ("alone", "many")
    )
    losses = [[json.loads(line)["loss"] for line in lines] for lines in (one, many)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    assert not list((place / "many" / "run").glob("*.incomplete"))
    drawn = ("--out", "drawn.png", "--count", "1", "--device", "cpu", "--system", "many")
    assert at.command("draw", "a red star", *drawn) == 0
    assert at.command("export", "--format", "hf", "many", "hf") == 0
    assert (place / "hf" / "model.safetensors").exists()
