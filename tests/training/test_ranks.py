"""Many processes: the same value for any number, whoever dies; who waits is told who died.

Ranks are forked (a start of torch each would cost seconds), in one test by torchrun's own agent.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import warnings
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import fid_coco
from benchmarks.evaluate import fid, pinned
from benchmarks.harness import core
from benchmarks.images import generated as images
from benchmarks.protocols.prompts import Prompt
from cm3leon.errors import UserError
from cm3leon.evaluation.features import cache as feature_cache
from cm3leon.training import ranks
from cm3leon.training.ranks import ALONE, Group
from tests.benchmarks.test_fid_coco import write_all_baselines
from tests.coco_maker import Tinted, stub_features, write_coco

ROOT = Path(__file__).resolve().parents[2]
N = 12
TOLD = r"(?m)^(measured fid_coco of .*|\d+ of \d+ pictures of .* reused from .*)\n"  # by rank 0


@given(st.integers(0, 90), st.integers(1, 6), st.integers(1, 9))
def test_shares_are_a_partition(count, size, block):
    shares = [list(Group(rank, size).share(count, block)) for rank in range(size)]
    assert sorted(place for share in shares for place in share) == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= block
    for share in shares:  # whole blocks: what is drawn together does not depend on the ranks
        for place in share:
            start = place // block * block
            assert set(range(start, min(start + block, count))) <= set(share)


def test_alone_nothing_is_awaited():
    ALONE.wait("x")
    ALONE.part()
    ALONE.check()
    assert ALONE.total("x", 5) == 5 and ALONE.first and ALONE.failed("x")


def test_who_left_before_it_was_looked_for_has_said_why(monkeypatch):
    """Rank 1 sees rank 2 die, says so and leaves, all while rank 0 looks at it."""
    import torch.distributed as dist

    store, here = dist.HashStore(), socket.gethostname()
    group = Group(0, 3, store, {rank: (here, 100 + rank) for rank in range(3)})

    def alive(process):
        if process == 101:
            store.set("failed/1", "rank 2 died")
        return False

    monkeypatch.setattr(ranks, "alive", alive)
    assert group.trouble() == "rank 1 stopped: rank 2 died"


@pytest.mark.parametrize("given", [{}, {"WORLD_SIZE": "1"}, {"RANK": "0", "WORLD_SIZE": "2"}])
def test_without_torchrun_nothing_changes(monkeypatch, given):
    for name in ranks.NEEDED:
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert not ranks.launched() and ranks.rank_here() == 0
    with ranks.joined() as group:
        assert group is ALONE


def test_a_process_that_ended_is_not_alive():
    assert ranks.alive(os.getpid())
    ended = subprocess.Popen([sys.executable, "-c", ""])
    while ranks.alive(ended.pid):  # it is not waited for: a zombie at last
        time.sleep(0.01)
    ended.wait()
    assert not ranks.alive(ended.pid)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def run_ranks(size, work, folder, patience_s=60):
    """Run `work(rank)` -> exit code in forked ranks; [(exit code or -signal, what it said)]."""
    port, children = str(free_port()), []
    for rank in range(size):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of forking beside threads
            child = os.fork()
        if child == 0:
            rank_process(rank, size, port, work, folder / f"said-{rank}.txt")
        children.append(child)
    codes = {}
    end = time.monotonic() + patience_s
    while len(codes) < size and time.monotonic() < end:
        for rank, child in enumerate(children):
            if rank not in codes and (found := os.waitpid(child, os.WNOHANG))[0]:
                codes[rank] = os.waitstatus_to_exitcode(found[1])
        time.sleep(0.02)
    for rank, child in enumerate(children):
        if rank not in codes:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    assert len(codes) == size, f"ranks {set(range(size)) - set(codes)} hung"
    texts = [(folder / f"said-{rank}.txt").read_text() for rank in range(size)]
    return [(codes[rank], re.sub(TOLD, "", text)) for rank, text in enumerate(texts)]


def rank_process(rank, size, port, work, said):
    """The rest of a forked rank's life."""
    code = 99
    try:
        handle = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.stdout, sys.stderr = (os.fdopen(one, "w", closefd=False) for one in (1, 2))
        named = dict(zip(ranks.NEEDED, (rank, size, "127.0.0.1", port), strict=True))
        os.environ.update({name: str(value) for name, value in named.items()})
        os.environ["TORCHELASTIC_RUN_ID"] = "as by torchrun"
        code = work(rank)
    except BaseException as error:
        print(f"Traceback: {error!r}")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


class Deadly(Tinted):
    """Kills its process after so many pictures."""

    def __init__(self, log, after):
        super().__init__(log)
        self.after = after

    def draw(self, prompts, seeds):
        if len(self.drawn) >= self.after:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().draw(prompts, seeds)


def deadly(log, dying, after, rank):
    return Deadly(log, after if rank == dying else 99)


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A small run: `make(name) -> options`, and `start(size, options, systems)`."""
    import torch.distributed  # noqa: F401  (forked children need not load it)

    monkeypatch.setattr(pinned, "load_features", stub_features)
    monkeypatch.setattr(fid, "write_grid", lambda *_: None)
    monkeypatch.setattr(fid_coco, "report", lambda *_: None)
    monkeypatch.setattr(feature_cache, "SHARD", 3)
    write_coco(tmp_path / "coco")

    def make(name, **changes):
        folders = {kind: tmp_path / name / kind for kind in ("results", "reports", "cache")}
        given = {"protocol": "coco2014-30k/clean", "coco_root": tmp_path / "coco", "n": N}
        return fid_coco.Options(**{**given, "batch_size": 2, "resamples": 3, **folders, **changes})

    def start(size, options, system):
        def work(rank):
            def measured(group):
                fid_coco.fid_coco(options, system(rank), group)
                return 0

            return core.exit_code(lambda: ranks.together(measured))

        return run_ranks(size, work, tmp_path)

    return make, start


def record_of(options) -> dict:
    (path,) = options.results.rglob("*.json")
    return json.loads(path.read_text())


@pytest.mark.parametrize("size", [2, 3])
def test_the_number_of_processes_cannot_be_seen(job, tmp_path, size):
    make, start = job
    alone, many, log = make("alone", seeds=(0, 1)), make("many", seeds=(0, 1)), tmp_path / "log"
    fid_coco.fid_coco(alone, Tinted())
    assert start(size, many, lambda rank: Tinted(log)) == [(0, "")] * size
    one, other = record_of(alone), record_of(many)
    assert core.comparable(one) == core.comparable(other)  # bit for bit
    assert one["cost"]["counters"]["drawn"] == other["cost"]["counters"]["drawn"] == 2 * N
    assert len(log.read_text().splitlines()) == 2 * N  # none drawn twice


def test_killed_twice_and_started_again(job, tmp_path):
    make, start = job
    alone, many, log = make("alone"), make("many"), tmp_path / "log"
    fid_coco.fid_coco(alone, Tinted())
    for size, dying, after in ((2, 1, 2), (3, 0, 0)):  # rank 0 takes the store with it
        began = time.monotonic()
        said = start(size, many, partial(deadly, log, dying, after))
        assert time.monotonic() - began < 30 and not list(many.results.rglob("*.json"))
        assert said[dying][0] == -signal.SIGKILL
        for code, text in said[:dying] + said[dying + 1 :]:
            lines = [line for line in text.splitlines() if line.startswith("error: ")]
            assert code == 2 and len(lines) == 1 and f"rank {dying} died (process" in lines[0]
    assert start(3, many, lambda rank: Tinted(log)) == [(0, "")] * 3
    assert core.comparable(record_of(alone)) == core.comparable(record_of(many))
    drawn = log.read_text().splitlines()
    assert len(drawn) == len(set(drawn)) == N


def test_a_rank_that_fails_is_named_by_the_others(job, tmp_path):
    make, start = job

    class Wrong(Tinted):
        def draw(self, prompts, seeds):
            return super().draw(prompts, seeds).astype(float)

    said = start(2, make("a"), lambda rank: Wrong() if rank == 1 else Tinted())
    assert [code for code, _ in said] == [2, 2]
    assert said[1][1].startswith("error: system tinted drew float64")
    assert said[0][1].startswith("error: rank 1 stopped: system tinted drew float64")


def test_the_same_mistake_is_said_once(job, tmp_path):
    make, start = job
    said = start(3, make("a", n=13), lambda rank: Tinted())
    assert [code for code, _ in said] == [2, 2, 2]
    own = [text for _, text in said if text.startswith("error: n must be at most 12")]
    assert len(own) == 1 and "".join(text for _, text in said).count("\n") <= 3


def test_a_broken_command_line_is_said_by_rank_0(tmp_path):
    def work(rank):
        try:
            return fid_coco.main(["--sistem", "noise"])
        except SystemExit as stop:
            return stop.code

    (first, said), (second, silent) = run_ranks(2, work, tmp_path)
    assert (first, second, silent) == (2, 2, "") and "did you mean --system?" in said


def test_pictures_are_drawn_by_all(tmp_path):
    import torch.distributed  # noqa: F401

    prompts = [Prompt(str(k), f"caption {k}", str(k)) for k in range(10)]

    def work(rank):
        def drawing(group):
            system = Tinted()
            found = images.draw_together(group, system, prompts, 0, tmp_path / "cache", 3)
            print(len(system.drawn), found.drawn, found.reused, len(found))
            return 0

        return ranks.together(drawing)

    assert run_ranks(2, work, tmp_path) == [(0, "6 10 0 10\n"), (0, "4 10 0 10\n")]
    alone = images.draw(Tinted(), prompts, 0, tmp_path / "alone")
    shared = images.draw(Tinted(), prompts, 0, tmp_path / "cache")
    for one, other in zip(alone.paths, shared.paths, strict=True):
        assert one.read_bytes() == other.read_bytes()


SYSTEM = """
import os, signal
from pathlib import Path
from tests.coco_maker import Tinted

class Once(Tinted):
    def draw(self, prompts, seeds):
        mark = Path("died")
        if os.environ.get("RANK") == "1" and self.drawn and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().draw(prompts, seeds)

MINE = Once(Path("log"))
"""


def torchrun(arguments, entry):
    """What torchrun does with its arguments, with its ranks forked: nothing is imported again."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch

    for name in ranks.NEEDED:
        os.environ.pop(name, None)
    given = run.parse_args(
        ["--start-method", "fork", "--master-port", str(free_port()), *arguments]
    )
    config, command, rest = run.config_from_args(given)
    assert [Path(command).name.startswith("python"), *rest[:3]] == [
        True, "-u", "-m", "benchmarks.fid_coco",
    ]  # fmt: skip
    try:
        elastic_launch(config, entry)(rest[3:])
    except ChildFailedError:
        return 1
    return 0


def entry(options):
    raise SystemExit(fid_coco.main(options))


def test_torchrun(tmp_path, monkeypatch):
    """A worker killed under torchrun's own agent; one process goes on from what both left."""
    import torch.distributed.run  # noqa: F401  (before the fork)

    write_all_baselines(tmp_path / "baselines")
    write_coco(tmp_path / "coco")
    (tmp_path / "my_file.py").write_text(SYSTEM)
    options = [
        *("--protocol", "coco2014-30k/clean", "--features", "scenes", "--coco-root", "coco"),
        *("--n", "12", "--system", "my_file:MINE", "--batch-size", "2", "--resamples", "3"),
        *("--results", "results", "--reports", "out", "--cache", "cache"),
    ]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CM3LEON_BASELINES", str(tmp_path / "baselines"))
    monkeypatch.delitem(sys.modules, "my_file", raising=False)
    arguments = ["--nproc-per-node", "2", "-m", "--", "benchmarks.fid_coco", *options]
    ((code, said),) = run_ranks(1, lambda rank: torchrun(arguments, entry), tmp_path)
    assert code == 1 and "error: rank 1 died (process" in said
    assert not list((tmp_path / "results").rglob("*.json"))
    assert fid_coco.main(options) == 0
    drawn = (tmp_path / "log").read_text().splitlines()
    assert len(drawn) == len(set(drawn)) == 12


def test_who_draws_stops_when_another_is_gone(job):
    """Without torchrun nobody sends a signal: before each batch a rank looks at the others."""
    make, start = job

    class Slow(Tinted):
        def draw(self, prompts, seeds):
            time.sleep(0.2 if self.drawn else 0)
            return super().draw(prompts, seeds)

    options = make("a")
    said = start(2, options, lambda rank: Deadly(None, 0) if rank == 1 else Slow())
    assert said[0][0] == 2 and "rank 1 died" in said[0][1]
    assert len(list(options.cache.rglob("*.png"))) < N / 2  # not the whole of its share


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"RANK": "x"}, "RANK=x .*must be numbers; unset RANK and WORLD_SIZE to run alone"),
        ({"MASTER_PORT": "abc"}, "MASTER_PORT=abc: rank, size and port must be numbers"),
        ({"RANK": "2"}, "no rank below the size"),
        ({"MASTER_PORT": "70000"}, "a port below 65536"),
    ],
)
def test_a_launcher_s_variables_left_in_a_shell(monkeypatch, changes, message):
    named = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29517"}
    for name, value in (named | changes).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message), ranks.joined():
        raise AssertionError("joined")


def test_a_port_in_use_and_ranks_that_do_not_come(monkeypatch, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        named = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        for name, value in named.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
        monkeypatch.setattr(ranks, "MEET_S", 1.0)
        found = pytest.raises(UserError, match=f"rank 0 of 2 found no store at .*PORT={port}")
        with found, ranks.joined():
            raise AssertionError("joined")
    came = pytest.raises(UserError, match=r"did not come within 1 s|found no store")
    with came, ranks.joined():
        raise AssertionError("joined")
    assert f"rank 0 of 2 waits for the others at 127.0.0.1:{port}" in capsys.readouterr().err
