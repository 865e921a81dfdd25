"""The ranks of a job that torchrun started: who is there, who died, who waits for whom.

Trainings (`parallel.py`) meet here, and benchmarks: `torchrun --nproc-per-node N -m --
benchmarks.fid_coco ...` (`--` lest torchrun takes our `--n` for one of its own). In a benchmark
each rank does its share of the pieces (drawings, shards of features) into the cache that all see,
waits for the others, and rank 0 measures what lies there. A piece is a file that is there whole or
not at all, so it is its own mark of being done: whoever died, the next start goes on, with as many
ranks as it likes. What a piece holds does not depend on the number of ranks, so nor does a result.

No tensor travels here: the ranks meet in the store of torch.distributed (on CPU and GPU alike),
which, other than a barrier of gloo or nccl, lets those who wait see that somebody died. Ranks on
several machines need one cache folder on a shared disk. Without torchrun there is one rank.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from cm3leon.errors import UserError

LOOK_S = 0.1  # between looks at the others
BEAT_S = 2.0  # between signs of life
MEET_S = 300.0  # for which the ranks wait for one another at the start
SILENT_S = 60.0  # without one, a rank of another machine counts as dead
NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
PARTING_S = 5.0  # for which a failed rank 0 keeps the store
AGAIN = "start the same command again: what is done is kept"


class Finished(Exception):
    """A rank other than 0 has done its share."""


@dataclass
class Group:
    """The ranks of a job as one of them sees it; alone without a store."""

    rank: int = 0
    size: int = 1
    store: object = None
    peers: dict = field(default_factory=dict)  # rank -> (host, process id)
    beats: dict = field(default_factory=dict)  # rank -> (last sign of life, when it was new)

    @property
    def first(self) -> bool:
        """Whether this is the rank that measures and reports."""
        return self.rank == 0

    def share(self, count: int, block: int = 1) -> Iterator[int]:
        """The places in range(count) that are this rank's: blocks in turn, so n ranks differ by a
        block at most."""
        return (place for place in range(count) if place // block % self.size == self.rank)

    def total(self, name: str, value: int) -> int:
        """Sum over the ranks of what each said; right after the next `wait` of all."""
        return value if self.store is None else self._ask("add", f"total/{name}", value)

    def wait(self, name: str) -> None:
        """Until every rank came here; UserError naming the rank that died or stopped."""
        if self.store is None:
            return
        self._ask("set", f"at/{name}/{self.rank}", "1")
        for rank in range(self.size):
            while not self._ask("check", [f"at/{name}/{rank}"]):
                self.check()
                time.sleep(LOOK_S)

    def part(self) -> None:
        """The end of the common work: only rank 0 goes on (raises Finished elsewhere)."""
        self.wait("part")
        if not self.first:
            raise Finished

    def check(self) -> None:
        """Raise UserError when another rank stopped with an error, or is no more."""
        if (reason := self.trouble()) is not None:
            raise UserError(reason)

    def trouble(self) -> str | None:
        """Which other rank failed or died; None while all is well."""
        for rank in (other for other in self.peers if other != self.rank):
            gone = self._gone(rank)  # asked first: who left before now has said why
            if self._ask("check", [f"failed/{rank}"]):
                return f"rank {rank} stopped: {self._ask('get', f'failed/{rank}').decode()}"
            if self._ask("check", [f"finished/{rank}"]):
                continue
            if gone is not None:
                return gone
            host, _ = self.peers[rank]
            if host != socket.gethostname() and self._silent(rank):
                return f"rank {rank} on {host} gave no sign for {SILENT_S:.0f} s; {AGAIN}"
        return None

    def _gone(self, rank: int) -> str | None:
        """A line for a rank of this machine whose process is no more."""
        host, process = self.peers[rank]
        if host != socket.gethostname() or alive(process):
            return None
        return f"rank {rank} died (process {process} on {host}); {AGAIN}"

    def failed(self, message: str) -> bool:
        """Tell the others; whether this rank was the first to fail."""
        if self.store is None:
            return True
        try:
            self._ask("set", f"failed/{self.rank}", message)
            return self._ask("add", "failures", 1) == 1
        except UserError:  # the store is gone: say it oneself
            return True

    def _silent(self, rank: int) -> bool:
        """Whether a rank of another machine has given no sign of life for long."""
        key, now = f"beat/{rank}", time.monotonic()
        beat = self._ask("get", key) if self._ask("check", [key]) else b""
        if rank not in self.beats or self.beats[rank][0] != beat:
            self.beats[rank] = beat, now
        return now - self.beats[rank][1] > SILENT_S

    def _ask(self, method: str, *arguments):
        """A call of the store; UserError when nobody answers any more."""
        try:
            return getattr(self.store, method)(*arguments)
        except RuntimeError as error:  # torch's network errors: who held the store is gone
            raise UserError(self._lost(str(error).splitlines()[0][:120])) from None

    def _lost(self, reason: str) -> str:
        """A line for a store that does not answer; its holder's sockets close before it is dead."""
        end = time.monotonic() + PARTING_S
        while time.monotonic() < end:
            gone = [self._gone(rank) for rank in self.peers if rank != self.rank]
            if any(gone):
                return next(filter(None, gone))
            time.sleep(LOOK_S)
        return f"rank {self.rank} lost the others ({reason}); {AGAIN}"


ALONE = Group()


def alive(process: int) -> bool:
    """Whether a process of this machine runs; a zombie does not."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return True
    return state != "Z"


def rank_here() -> int:
    """This process' rank by its environment, 0 without torchrun."""
    try:
        return int(os.environ["RANK"]) if launched() else 0
    except ValueError:  # `find_store` says so
        return 0


def launched() -> bool:
    """Whether torchrun (or whoever sets the same variables) started several of us."""
    return all(os.environ.get(name) for name in NEEDED) and os.environ["WORLD_SIZE"] != "1"


@contextlib.contextmanager
def joined() -> Iterator[Group]:
    """The group of this job; a `with` block, at whose end the others are told that we are done."""
    if not launched():
        yield ALONE
        return
    import torch.distributed as dist

    store, rank, size = find_store(dist)
    group = meet(store, rank, size)
    own_device()
    over = threading.Event()
    threading.Thread(target=beat, args=(group, over), daemon=True).start()
    before = signal.signal(signal.SIGTERM, lambda *_: stop(group))
    try:
        yield group
        group._ask("set", f"finished/{rank}", "1")
        if group.first:
            linger(group)
    except Finished:
        group._ask("set", f"finished/{rank}", "1")
        raise
    finally:
        over.set()
        signal.signal(signal.SIGTERM, before)


def find_store(dist) -> tuple[object, int, int]:
    """(store, rank, number of ranks) by the launcher's variables.

    Says at once whom it waits for: variables left in a shell look like a launcher's. Raises
    UserError for ones that are no numbers, a port in use, and a holder that does not answer.
    """
    told = {name: os.environ[name] for name in NEEDED}
    shown = " ".join(f"{name}={value}" for name, value in told.items())
    way_out = "unset RANK and WORLD_SIZE to run alone, or start by torchrun"
    try:
        rank, size, port = (int(told[name]) for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
    except ValueError:
        raise UserError(f"{shown}: rank, size and port must be numbers; {way_out}") from None
    if not (0 <= rank < size and 0 < port < 2**16):
        raise UserError(f"{shown}: no rank below the size at a port below 65536; {way_out}")
    if "TORCHELASTIC_RUN_ID" not in os.environ:  # torchrun itself is sure of its ranks
        print(
            f"rank {rank} of {size} waits for the others at {told['MASTER_ADDR']}:{port} for at "
            f"most {MEET_S:.0f} s ({way_out})",
            file=sys.stderr,
            flush=True,
        )
    try:
        store, rank, size = next(dist.rendezvous("env://", timeout=timedelta(seconds=MEET_S)))
    except (RuntimeError, ValueError, OSError) as error:  # torch's network errors
        reason = (str(error).splitlines() or [""])[0][:120]
        raise UserError(
            f"rank {rank} of {size} found no store at {shown}: {reason}; {way_out}"
        ) from None
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # what died before is in the store
    return dist.PrefixStore(f"attempt-{attempt}", store), rank, size


def meet(store, rank: int, size: int) -> Group:
    """The group, once every rank has said where it runs; UserError naming one that did not come."""
    store.set(f"peer/{rank}", f"{socket.gethostname()} {os.getpid()}")
    peers, other = {}, 0
    try:
        for other in range(size):
            host, process = store.get(f"peer/{other}").decode().rsplit(" ", 1)
            peers[other] = host, int(process)
    except RuntimeError:  # torch's timeout
        raise UserError(
            f"rank {other} of {size} did not come within {MEET_S:.0f} s; start all ranks "
            "(torchrun), or unset RANK and WORLD_SIZE to run alone"
        ) from None
    return Group(rank, size, store, peers)


def own_device() -> None:
    """Each rank of a machine takes a GPU of its own, where there are any."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())


def beat(group: Group, over: threading.Event) -> None:
    """A sign of life now and then, until `over`."""
    count = 0
    while not over.wait(BEAT_S):
        count += 1
        with contextlib.suppress(UserError):
            group._ask("set", f"beat/{group.rank}", str(count))


def stop(group: Group) -> None:
    """What SIGTERM does: end with the reason, which is the rank whose end made torchrun send it."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise UserError(group.trouble() or f"rank {group.rank} was told to stop; {AGAIN}")


def linger(group: Group, key: str = "finished", longest_s: float = SILENT_S) -> None:
    """Rank 0 may hold the store: it leaves last, or after `longest_s`."""
    end = time.monotonic() + longest_s
    with contextlib.suppress(UserError):
        for rank in range(1, group.size):
            while not group._ask("check", [f"{key}/{rank}"]) and time.monotonic() < end:
                if group._gone(rank):
                    break
                time.sleep(LOOK_S)


def leave(group: Group) -> None:
    """The end of a rank that failed; the holder of the store gives the others time to ask why."""
    if group.store is None:
        return
    with contextlib.suppress(UserError):
        group._ask("set", f"left/{group.rank}", "1")
        if group.first and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
            linger(group, "left", PARTING_S)


def together(work: Callable[[Group], int]) -> int:
    """What `work(group)` returns, 0 on ranks that only helped; a mistake is said by one rank.

    Raises the UserError on the rank that fails first; the others end with code 2 and, when they
    were stopped by it, a line that names it.
    """
    group = ALONE
    try:
        with joined() as group:
            try:
                return work(group)
            except (UserError, OSError) as error:
                said = not group.failed(str(error)) and said_already(group, str(error))
                leave(group)
                if said:
                    return 2
                raise
    except Finished:
        return 0


def said_already(group: Group, message: str) -> bool:
    """Whether another rank made the very same mistake, and says so."""
    others = [f"failed/{rank}" for rank in group.peers if rank != group.rank]
    try:
        return any(
            group._ask("check", [key]) and group._ask("get", key).decode() == message
            for key in others
        )
    except UserError:  # who held the store is gone
        return False


@contextlib.contextmanager
def first_alone_speaks() -> Iterator[None]:
    """A `with` block (a command line being read) in which other ranks than 0 say nothing."""
    if rank_here() == 0:
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        try:
            yield
        except UserError:
            raise SystemExit(2) from None
