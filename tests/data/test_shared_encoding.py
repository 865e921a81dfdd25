"""Several processes encode one source: every shard once, whoever dies, and the bytes of one."""

import json
import os
import platform
import shutil
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from cm3leon import files, seeds
from cm3leon.data import locks, shards
from cm3leon.data.sources import Scenes
from cm3leon.data.token_cache import encode
from cm3leon.errors import UserError
from tests.data.test_token_cache import Blocks, Lengths, contents
from tests.training.rank_processes import start_work

SHARDS = 7
SOURCE = Scenes("stock", "train", 100, 13, 32, 2)


class Words:
    """A stand-in for the text tokenizer: a letter is an id."""

    digest, size = "cd" * 32, 256

    def encode_batch(self, texts):
        return [list(text.encode()) for text in texts]


def encoded(folder, source=SOURCE, **changes):
    return encode(source, Blocks(), Words(), folder, clip=Lengths(), **changes)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process makes."""
    folder = tmp_path_factory.mktemp("alone")
    encoded(folder)
    return contents(folder)


@dataclass(frozen=True)
class Worker:
    """One of several; some are killed at the change of a name in the folder, before or after it."""

    folder: Path
    told: Path
    dies: dict  # rank -> (which change, whether after it)

    def __call__(self) -> int:
        locks.BEAT_S, locks.LOOK_S = 0.05, 0.02
        when, after = self.dies.get(int(os.environ["RANK"]), (10**9, False))
        count = 0

        def deadly(change):
            def changed(old, new, **more):
                nonlocal count
                count += 1
                if count == when and not after:
                    os.kill(os.getpid(), signal.SIGKILL)
                change(old, new, **more)
                name = os.path.basename(new)
                if name.startswith("shard-") and name.endswith(".json"):
                    with open(self.told, "a") as file:
                        file.write(name + "\n")
                if count == when:
                    os.kill(os.getpid(), signal.SIGKILL)

            return changed

        os.replace, os.link = deadly(os.replace), deadly(os.link)
        cache = encoded(self.folder)
        assert len(set(cache.ids)) == len(cache) == SOURCE.count
        return 0


@pytest.mark.parametrize("seed", range(3))
def test_two_of_three_are_killed_and_every_document_is_there_once(alone, tmp_path, seed):
    draws = seeds.generator(seed, "kills")
    dies = {rank: (int(draws.integers(1, 22)), bool(draws.integers(2))) for rank in (0, 2)}
    work = Worker(tmp_path / "cache", tmp_path / "told", dies)
    ends = [code for code, _ in start_work(3, work, tmp_path)]
    assert ends[1] == 0 and set(ends) <= {0, -signal.SIGKILL}
    for path in work.folder.glob(
        ".*"
    ):  # unfinished files of the dead: the next writer removes them
        assert path.name.endswith(files.TEMPORARY) or path.name == locks.FOLDER
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert contents(work.folder) == alone
    written = work.told.read_text().splitlines()
    assert sorted(written) == [f"shard-{number:05d}.json" for number in range(SHARDS)]


def elsewhere(path: Path) -> None:
    """A lock of another machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(json.loads(locks._me()) | {"machine": f"not {platform.node()}"}))


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(locks, "SILENT_S", 0.3)
    monkeypatch.setattr(locks, "SETTLE_S", 0.01)
    monkeypatch.setattr(locks, "LOOK_S", 0.02)


def test_a_silent_machine_s_shard_is_taken_over(alone, quick, tmp_path):
    folder = tmp_path / "cache"
    elsewhere(shards._lock(folder, 3))
    os.utime(shards._lock(folder, 3), (9e9, 9e9))  # its clock is decades ahead
    encoded(folder)
    assert contents(folder) == alone


def test_who_gives_signs_of_life_is_waited_for(alone, quick, tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "SILENT_S", 30.0)
    folder, told, over = tmp_path / "cache", threading.Event(), threading.Event()
    path = shards._lock(folder, 3)
    elsewhere(path)
    said = []
    monkeypatch.setattr(locks, "say", lambda line: (said.append(line), told.set()))

    def works():
        lock = locks.Lock(path, path.read_text())
        told.wait()
        for _ in range(5):
            time.sleep(0.03)
            assert not shards._marker(folder, 3).exists() and lock.kept()
        over.set()
        path.unlink()

    worker = threading.Thread(target=works)
    worker.start()
    encoded(folder)
    worker.join()
    assert over.is_set() and contents(folder) == alone
    name = f"process {os.getpid()} of not {platform.node()}"
    assert said == [f"waiting for 1 shards, made by {name}"]


def test_who_slept_too_long_leaves_the_shard_to_who_took_it(alone, quick, tmp_path, capsys):
    folder, made = tmp_path / "cache", []

    class Asleep(Blocks):
        def encode(self, images):
            made.append(len(images))
            if len(made) == 3:
                elsewhere(shards._lock(folder, 2))
            return super().encode(images)

    encode(SOURCE, Asleep(), Words(), folder, clip=Lengths())
    assert len(made) == SHARDS + 1 and contents(folder) == alone
    assert "shard 2 was taken over by process" in capsys.readouterr().err


def test_a_refusal_leaves_the_folder_to_others(tmp_path):
    with shards._entered(tmp_path / "cache"):
        with pytest.raises(UserError, match="full"):
            encode(SOURCE, Full(), Words(), tmp_path / "cache", clip=Lengths())
        assert (tmp_path / "cache" / "cache.json").exists()
    with pytest.raises(UserError, match="full"):
        encode(SOURCE, Full(), Words(), tmp_path / "cache", clip=Lengths())
    assert not (tmp_path / "cache").exists()


class Full(Blocks):
    def encode(self, images):
        raise UserError("the disk is full")


def test_files_that_show_late_are_waited_for_and_no_longer(alone, quick, tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    encoded(folder)
    path, hidden = folder / "codes-00004.npy", tmp_path / "hidden"
    about = json.loads((folder / "cache.json").read_text())["content"]
    path.rename(hidden)
    threading.Timer(0.2, hidden.rename, (path,)).start()
    shards._finish(folder, about, {4})
    path.rename(hidden)
    monkeypatch.setattr(shards, "LAG_S", 0.1)
    with pytest.raises(UserError, match="codes-00004"):
        shards._finish(folder, about, {4})
