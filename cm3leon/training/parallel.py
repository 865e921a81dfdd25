"""Training in many processes: `torchrun --nproc-per-node N -m cm3leon train ...` (and `tune`).

What the loop asks of its ranks: `Alone` answers for one process, `Ranks` for those of torchrun, by
torch's own means: FSDP2 (`fully_shard`) a block, embeddings and head in one group with the root
(apart, and with a vocabulary that the ranks do not divide, torch would not move the last rows of a
tied table: pytorch#176076), distributed checkpoints in safetensors, gloo for what is counted.

- Row i of a step is that of rank i mod size: the same rows are in the same step for any number.
- The loss is a sum over all ranks by a total over all (`batches.token_loss`), so gradients are
  summed, not averaged (torchtitan#2206).
- Weights, gradients and moments are float32, in parts; the blocks' matrices are gathered in the
  type of the products, embeddings and head in float32, as one process computes with them.
- A state is a folder that ranks fill under a name of its own and that gets its name when whole;
  any number of ranks, one too, goes on from it.

Losses of other numbers of ranks differ by rounding alone; the same number gives the same bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import resource
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path

import torch
from torch import Tensor, nn

from cm3leon import checkpoint
from cm3leon.config import ModelConfig, TrainConfig
from cm3leon.errors import UserError
from cm3leon.files import sha256_file
from cm3leon.identity import check_file
from cm3leon.model.transformer import Transformer
from cm3leon.training import ranks
from cm3leon.training.optimizer import Muon, make_optimizer, precision

PATIENCE = timedelta(minutes=30)  # of one rank for another in a collective
GRACE_S = 10.0  # for which a rank may still tell by itself that another is gone
FILES = "files.json"  # of a state's folder: the digests of the others
READ_AGAIN = "copy it again, or remove the state to go on from an older one"
Check = Callable[[dict, dict, Path], None]


class Alone:
    """One process."""

    rank, size, first = 0, 1, True

    @contextlib.contextmanager
    def in_turn(self) -> Iterator[None]:
        """A block that the first rank runs before the others do: it makes what they find."""
        yield

    def transformer(
        self,
        config: ModelConfig,
        train: TrainConfig,
        device: str,
        generator: torch.Generator | None = None,
        drawn: bool = True,
    ) -> Transformer:
        """A model to train, its weights as `Transformer` draws them; not `drawn`: any."""
        return Transformer(config, generator).to(device)

    def load_weights(self, model: Transformer, folder: Path) -> None:
        """Take the weights of a checkpoint of the same shape."""
        _, tensors, _ = checkpoint.load(folder, "transformer")
        checkpoint.load_into(model, tensors)

    def dealt(self, rows: Callable[..., dict]) -> Callable[[int], dict]:
        """This rank's part of the batch of a step, with the totals of the whole."""
        return rows

    def pieces(self, accumulate: int, batch: int) -> int:
        """In how many pieces this rank cuts its part of a batch that one would cut in so many."""
        return accumulate

    def measured(self, evaluate: Callable[[nn.Module], dict]) -> Callable[[nn.Module], dict]:
        """Held-out numbers, the same on all ranks."""
        return evaluate

    def optimizer(self, module: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
        """The optimiser of what this rank holds."""
        return make_optimizer(module, config)

    def summed(self, values: dict[str, float]) -> dict[str, float]:
        """The numbers of a step over all ranks; "gradient_norm" is that of all already."""
        return values

    def where(self, name: str) -> str:
        """Which rank's part of the last `summed` was not finite, as words in a line."""
        return ""

    def agreed(self, signal: int) -> int:
        """The signal that any rank received, 0 without one; the same answer on all."""
        return signal

    def check_same(self, identity: dict) -> None:
        """Raise UserError unless all ranks run the same code for the same training."""

    def memory(self, device: torch.device) -> dict[str, float]:
        """The peak of this process so far, in 1e9 bytes, for the log; of an accelerator alone."""
        if device.type != "cuda":
            return {}
        return {"memory_gb": round(torch.cuda.max_memory_allocated(device) / 1e9, 3)}

    def load_state(
        self, path: Path, module: nn.Module, optimizer, identity: dict, check: Check
    ) -> dict | None:
        """As `checkpoint.load_state`, also of a state that many ranks wrote."""
        about = named_state(path, identity, check)
        if about is None:
            return None
        folder = checkpoint.described_in(path).parent
        if not (folder / about["tensors"]).is_dir():
            return checkpoint.load_state(path, module, optimizer, identity, check)
        for file, sha256 in state_files(folder, about).items():
            check_file(file, sha256, READ_AGAIN)
        read_state(list(state_files(folder, about)), module, optimizer)
        return about["position"]

    def save_state(
        self, folder: Path, module, optimizer, identity: dict, position: dict, keep: bool = False
    ) -> None:
        """As `checkpoint.save_state`."""
        checkpoint.save_state(folder, module, optimizer, identity, position, keep)

    def save_model(self, folder: Path, model: Transformer, extra: dict) -> None:
        """The checkpoint of a trained model, in bfloat16."""
        tensors = {name: value.cpu() for name, value in model.state_dict().items()}
        checkpoint.save(folder, "transformer", model.config, tensors, extra, torch.bfloat16)


ALONE = Alone()


class Ranks(Alone):
    """One of the processes that torchrun started; `replicas` whole models lie on all together, each
    in parts on as many ranks (HSDP).
    """

    def __init__(self, group: ranks.Group, device: str, replicas: int = 1):
        import torch.distributed as dist
        from torch.distributed.device_mesh import init_device_mesh

        if not 1 <= replicas <= group.size or group.size % replicas:
            raise UserError(
                f"--replicas {replicas} must divide the {group.size} ranks; give "
                f"{divisors(group.size)}"
            )
        self.group, self.rank, self.size = group, group.rank, group.size
        self.first, self.turns = group.first, 0
        kind = torch.device(device).type
        shape, names = (replicas, group.size // replicas), ("replicate", "shard")
        if replicas == 1:
            shape, names = shape[1:], names[1:]
        self.mesh = init_device_mesh(kind, shape, mesh_dim_names=names)
        self.shard = self.mesh["shard"].get_group()
        self.parts: list[dict] = []  # what the ranks gave to the last `summed`
        self.dist = dist

    @contextlib.contextmanager
    def in_turn(self) -> Iterator[None]:
        self.turns += 1
        if not self.first:
            self.group.wait(f"turn-{self.turns}")
        yield
        if self.first:
            self.group.wait(f"turn-{self.turns}")

    def transformer(self, config, train, device, generator=None, drawn=True) -> Transformer:
        """Never whole: parts are allotted empty, then filled from one weight after another."""
        from torch.distributed.fsdp import (
            FSDPModule,
            MixedPrecisionPolicy,
            fully_shard,
            register_fsdp_forward_method,
        )

        if train.batch < self.size:
            raise UserError(
                f"a batch of {train.batch} rows has none for some of {self.size} ranks; give a "
                f"--batch of at least {self.size}, or start fewer"
            )
        with torch.device("meta"):
            model = Transformer(config)
        cast = precision(train, device)
        inputs_stay = {"reduce_dtype": torch.float32, "cast_forward_inputs": False}
        policy = MixedPrecisionPolicy(None if cast == torch.float32 else cast, **inputs_stay)
        for block in model.blocks:
            fully_shard(block, mesh=self.mesh, mp_policy=policy)
        root = MixedPrecisionPolicy(**inputs_stay)
        fully_shard(model, mesh=self.mesh, mp_policy=root, reshard_after_forward=False)
        register_fsdp_forward_method(model, "hidden")
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)  # gloo knows no other
        model.to_empty(device=device)
        for weight, values in model.first_values(generator) if drawn else ():
            own(weight).copy_(values[rows_of(weight)])
        return model

    def load_weights(self, model: Transformer, folder: Path) -> None:
        about = checkpoint.read_about(folder)
        files = checkpoint.listed_files(folder, about["sha256"])
        self._check_files({folder / file: sha256 for file, sha256 in files.items()}, "name another")
        read([folder / file for file in files], dict(model.state_dict()), self.group)

    def dealt(self, rows: Callable[..., dict]) -> Callable[[int], dict]:
        def batch(step: int) -> dict:
            mine = rows(step, slice(self.rank, None, self.size))
            totals = {name: float(value) for name, value in mine["totals"].items()}
            found = self.gathered([totals, mine["counts"]])
            whole = {
                name: torch.tensor(sum(one[0][name] for one in found), dtype=value.dtype)
                for name, value in mine["totals"].items()
            }
            counts = added([one[1] for one in found])
            if not self.first:  # what is counted is counted once
                counts = dict.fromkeys(counts, 0)
            return mine | {"totals": whole, "counts": counts}

        return batch

    def pieces(self, accumulate: int, batch: int) -> int:
        return min(-(-accumulate // self.size), batch // self.size)

    def measured(self, evaluate: Callable[[nn.Module], dict]) -> Callable[[nn.Module], dict]:
        def numbers(module: nn.Module) -> dict:
            found = evaluate(module)
            for one in module.modules():
                if hasattr(one, "reshard"):
                    one.reshard()  # the root's part is what the optimiser knows
            return found

        return numbers

    def optimizer(self, module: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
        made = make_optimizer(module, config)
        if isinstance(made, Muon):
            made.spread = self.spread
        return made

    def spread(self, wishes: list[Tensor], changes: Callable) -> list[Tensor]:
        """Muon's products, each on one rank: a matrix's parts go to its owner, and those of its
        change come back (`optimizer.Spread`). Owners are in turn, the largest matrices first.
        """
        size, here = self.dist.get_world_size(self.shard), self.dist.get_rank(self.shard)
        order = sorted(range(len(wishes)), key=lambda at: -wishes[at].numel())
        owned = [order[rank::size] for rank in range(size)]
        parts = [own(wish) for wish in wishes]
        lengths = [[len_of(wish.shape[0], size, rank) for rank in range(size)] for wish in wishes]
        widths = [wish.shape[1] for wish in wishes]
        sent = [sum(parts[at].numel() for at in mine) for mine in owned]
        back = [sum(lengths[at][rank] * widths[at] for at in owned[here]) for rank in range(size)]
        flat = torch.cat([parts[at].reshape(-1) for mine in owned for at in mine])
        came = self._exchange(flat, sent, back).split(back)
        pieces: dict[int, list[Tensor]] = {at: [] for at in owned[here]}
        for rank, one in enumerate(came):
            sizes = [lengths[at][rank] * widths[at] for at in owned[here]]
            for at, piece in zip(owned[here], one.split(sizes), strict=True):
                pieces[at].append(piece)
        whole = [torch.cat(pieces[at]).view(-1, widths[at]) for at in owned[here]]
        found = dict(zip(owned[here], changes(whole, owned[here]), strict=True))
        rows = {at: change.split(lengths[at]) for at, change in found.items()}
        flat = [rows[at][rank].reshape(-1) for rank in range(size) for at in owned[here]]
        came = self._exchange(torch.cat(flat) if flat else parts[0].new_empty(0), back, sent)
        places = [at for mine in owned for at in mine]
        split = came.split([parts[at].numel() for at in places])
        moved = {at: one.view_as(parts[at]) for at, one in zip(places, split, strict=True)}
        return [like(wish, moved[at]) for at, wish in enumerate(wishes)]

    def _exchange(self, flat: Tensor, sent: list[int], back: list[int]) -> Tensor:
        found = flat.new_empty(sum(back))
        self.dist.all_to_all_single(found, flat, back, sent, group=self.shard)
        return found

    def gathered(self, value) -> list:
        """What every rank gave, in JSON's types, in their order."""
        data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        self.dist.all_gather(lengths, torch.tensor([len(data)]))
        longest = int(max(lengths))
        found = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.size)]
        self.dist.all_gather(found, nn.functional.pad(data, (0, longest - len(data))))
        texts = [bytes(one[: int(n)].tolist()) for one, n in zip(found, lengths, strict=True)]
        return [json.loads(text) for text in texts]

    def summed(self, values: dict[str, float]) -> dict[str, float]:
        self.parts = self.gathered(values)
        whole = added(self.parts)
        return whole | {"gradient_norm": values["gradient_norm"]}

    def where(self, name: str) -> str:
        bad = [rank for rank, one in enumerate(self.parts) if one["loss"] - one["loss"] != 0]
        if not bad:
            return ""
        which, several = ", ".join(map(str, bad)), "s" * (len(bad) > 1)
        return f" on rank{several} {which} (rows i of its batch, i mod {self.size} = {which})"

    def agreed(self, signal: int) -> int:
        told = torch.tensor([signal])
        self.dist.all_reduce(told, self.dist.ReduceOp.MAX)
        return int(told)

    def check_same(self, identity: dict) -> None:
        told = self.gathered([code_digest(), socket.gethostname(), identity])
        code, _, first = told[0]
        for rank, (theirs, host, other) in enumerate(told):
            if theirs != code:
                raise UserError(
                    f"rank {rank} on {host} runs other code ({theirs[:12]}) than rank 0 "
                    f"({code[:12]}): sources of cm3leon or the version of torch; install the same "
                    "on all"
                )
            try:
                checkpoint.refuse_other(other, first, Path("run"))
            except UserError as error:
                what = str(error).removeprefix("run was begun with ").partition(", this run")
                raise UserError(
                    f"rank {rank} on {host} has {what[0]}, rank 0{what[2].partition(';')[0]}; give "
                    "all ranks the same options and files"
                ) from None

    def memory(self, device: torch.device) -> dict[str, float]:
        here = super().memory(device) or {
            "memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
        }
        most = max(one["memory_gb"] for one in self.gathered(here))
        return {"memory_gb": round(most, 3), "ranks": self.size}

    @contextlib.contextmanager
    def faults(self) -> Iterator[None]:
        """A block in which ranks wait for one another: errors of that name who is to blame."""
        try:
            yield
        except RuntimeError as error:
            reason = self._reason(str(error))
            if reason is None:
                raise
            raise UserError(reason) from None

    def _reason(self, error: str) -> str | None:
        """Who is to blame for an error of a collective; None for any other error."""
        end = time.monotonic() + GRACE_S
        lost = re.search(r"(?i)gloo|nccl|connection|peer|socket|timed? ?out", error)
        while lost and time.monotonic() < end:
            if reason := self.group.trouble():
                return root_of(reason)
            time.sleep(ranks.LOOK_S)
        first = (error.splitlines() or [""])[0][:120]
        return f"rank {self.rank} lost the others ({first}); {ranks.AGAIN}" if lost else None

    def load_state(self, path, module, optimizer, identity, check) -> dict | None:
        about = named_state(path, identity, check)
        if about is None:
            return None
        folder = checkpoint.described_in(path).parent
        files = state_files(folder, about)
        self._check_files(files, READ_AGAIN)
        read_state(list(files), module, optimizer, self.group)
        return about["position"]

    def _check_files(self, files: Mapping[Path, str], way_out: str) -> None:
        """Each file's digest is checked by one rank."""
        fault = ""
        try:
            for at, (file, sha256) in enumerate(files.items()):
                if at % self.size == self.rank:
                    check_file(file, sha256, way_out)
        except UserError as error:
            fault = str(error)
        for one in self.gathered(fault):
            if one:
                raise UserError(one)

    def save_state(self, folder, module, optimizer, identity, position, keep=False) -> None:
        """Every rank writes what it holds into a folder that is renamed when it is whole."""
        name = checkpoint.state_file(folder, position["step"]).stem
        part, done = folder / f"{name}{checkpoint.INCOMPLETE}", folder / name
        if self.first:
            for old in (part, done):
                shutil.rmtree(old, ignore_errors=True)
            part.mkdir(parents=True)
        self.dist.barrier()
        write(part, state_tensors(module, optimizer), folder)
        own_files = part.glob(f"shard-{self.rank + 1:05d}-*")
        digests = added(self.gathered({file.name: sha256_file(file) for file in own_files}), {})
        if self.first:
            checkpoint.write_about(part / FILES, {"files": digests})
            os.rename(part, done)
            about = {"tensors": name, "sha256": sha256_file(done / FILES)}
            about |= {"position": position, "identity": identity}
            checkpoint.finish_state(folder, about, keep)
        self.dist.barrier()

    def save_model(self, folder, model, extra) -> None:
        """Weights come together one by one, each file of them on one rank."""
        weights, kept = model.state_dict(), torch.bfloat16
        sizes = {name: checkpoint.stored_bytes(value, kept) for name, value in weights.items()}
        files, digests = checkpoint.weight_files(sizes), {}
        for at, (file, names) in enumerate(files.items()):
            tensors = {}
            for name in names:
                value = whole(weights[name])
                if at % self.size == self.rank:
                    tensors[name] = value.to("cpu", kept)
            if tensors:
                digests[file] = checkpoint.write_tensors(folder / file, tensors)
        digests = added(self.gathered(digests), {})
        if self.first:
            config = model.config
            checkpoint.finish(folder, "transformer", config, files, digests, extra)
        self.dist.barrier()


def together(device: str, replicas: int | None, work: Callable[[Alone], int]) -> int:
    """What `work(ranks)` returns, with `ALONE` where torchrun did not start us; a mistake is said
    by one rank (`ranks.together`).
    """
    if not ranks.launched():
        if replicas not in (None, 1):
            raise UserError(f"--replicas {replicas} needs as many processes; start by torchrun")
        return work(ALONE)

    def as_rank(group: ranks.Group) -> int:
        over = threading.Event()
        threading.Thread(target=watch, args=(group, over), daemon=True).start()
        try:
            with connected(group, device):
                team = Ranks(group, device, nodes() if replicas is None else replicas)
                with team.faults():
                    return work(team)
        finally:
            over.set()

    return ranks.together(as_rank)


@contextlib.contextmanager
def connected(group: ranks.Group, device: str) -> Iterator[None]:
    """A block in which tensors may travel between the ranks."""
    import torch.distributed as dist

    backend = "cpu:gloo,cuda:nccl" if torch.device(device).type == "cuda" else "gloo"
    store = dist.PrefixStore("tensors", group.store.clone())
    dist.init_process_group(
        backend, store=store, rank=group.rank, world_size=group.size, timeout=PATIENCE
    )
    try:
        yield
    except SystemExit:
        group.failed("it was told to stop")
        raise
    finally:
        with contextlib.suppress(RuntimeError):
            dist.destroy_process_group()


def watch(group: ranks.Group, over: threading.Event) -> None:
    """End this process some time after another died: on an accelerator a collective that waits for
    the dead does not return.
    """
    since = None
    while not over.wait(ranks.BEAT_S):
        try:
            reason = group.trouble()
        except UserError as error:
            reason = str(error)
        since = (since or time.monotonic()) if reason else None
        if since and time.monotonic() - since > GRACE_S + ranks.BEAT_S:
            with contextlib.suppress(UserError):
                if not group.failed(root_of(reason)):
                    os._exit(2)  # another has said it
            print(f"error: {root_of(reason)}", file=sys.stderr, flush=True)
            os._exit(2)


def root_of(reason: str) -> str:
    """The first cause in a line of `Group.trouble`: who stopped because another did is left out."""
    while found := re.match(r"rank \d+ stopped: (rank \d+ .*)", reason):
        reason = found[1]
    return reason


def nodes() -> int:
    """Machines of the job, as torchrun tells: one whole model on each."""
    size, local = (int(os.environ.get(name, 1)) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    return size // local if "LOCAL_WORLD_SIZE" in os.environ and size % local == 0 else 1


def divisors(number: int) -> str:
    """All divisors, as words."""
    return ", ".join(str(one) for one in range(1, number + 1) if number % one == 0)


def whole(value: Tensor) -> Tensor:
    """A tensor that lies in parts on several ranks, all of which ask for it, else itself."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def own(value: Tensor) -> Tensor:
    """The part of a tensor that this rank holds."""
    return value.detach().to_local() if hasattr(value, "to_local") else value.detach()


def like(value: Tensor, part: Tensor) -> Tensor:
    """A part as a tensor that lies as `value` does."""
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        part, value.device_mesh, value.placements, shape=value.shape, stride=value.stride()
    )


def rows_of(value: Tensor) -> slice:
    """Which rows of a tensor this rank holds."""
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    shape, offset = compute_local_shape_and_global_offset(
        value.shape, value.device_mesh, value.placements
    )
    return slice(offset[0], offset[0] + shape[0])


def len_of(rows: int, size: int, rank: int) -> int:
    """How many of the rows of a matrix lie on a rank."""
    chunk = -(-rows // size)
    return min(chunk, max(0, rows - rank * chunk))


def added(parts: list[dict], start: int | dict = 0) -> dict:
    """Dicts of numbers summed by name; of anything else (a `start` of {}), joined."""
    if start == {}:
        return {name: value for part in parts for name, value in part.items()}
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: sum(part.get(name, 0) for part in parts) for name in names}


def code_digest() -> str:
    """Names the sources of cm3leon that run here, and the version of torch."""
    home = Path(checkpoint.__file__).parent
    digest = hashlib.sha256(torch.__version__.encode())
    for path in sorted(home.rglob("*.py")):
        digest.update(str(path.relative_to(home)).encode() + path.read_bytes())
    return digest.hexdigest()


def named_state(path: Path, identity: dict, check: Check) -> dict | None:
    """The description of a state, checked to be one of this run; None where there is none."""
    path = checkpoint.described_in(path)
    if not path.exists():
        return None
    about = checkpoint.read_state(path)
    check(about, identity, path.parent)
    return about


def state_files(folder: Path, about: dict) -> dict[Path, str]:
    """The files that hold the tensors of a state -> their digests."""
    place = folder / about["tensors"]
    if not place.is_dir():
        return {place: about["sha256"]}
    check_file(place / FILES, about["sha256"], READ_AGAIN)
    files = checkpoint.read_own(place / FILES, {"files": dict}, READ_AGAIN)["files"]
    return {place / name: sha256 for name, sha256 in files.items()}


def state_tensors(module: nn.Module, optimizer) -> dict[str, Tensor]:
    """All tensors of a training by their names in a state (`checkpoint.save_state`)."""
    tensors = {f"module/{name}": value for name, value in module.state_dict().items()}
    for name, parameter in module.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer/{name}/{key}"] = value
    return tensors


def write(folder: Path, tensors: dict[str, Tensor], told: Path) -> None:
    """Write into a folder what this rank holds of tensors; UserError for a rank that cannot."""
    import torch.distributed.checkpoint as dcp

    try:
        writer = dcp.HuggingFaceStorageWriter(str(folder), save_distributed=True)
        dcp.save(tensors, storage_writer=writer)
    except dcp.CheckpointException as error:
        shutil.rmtree(folder, ignore_errors=True)
        rank, (cause, _) = next(iter(error.failures.items()))
        reason = getattr(cause, "strerror", None) or " ".join(str(cause).split())[:120]
        raise UserError(
            f"cannot write {told}: rank {rank}: {reason}; free space (the state saved last is kept)"
        ) from None


def read_state(files: list[Path], module: nn.Module, optimizer, group=None) -> None:
    """Fill module and optimiser from the files of a state, each rank with what it holds."""
    parameters = dict(module.named_parameters())
    targets = {f"module/{name}": value for name, value in module.state_dict().items()}
    for key, info in stored(files).items():
        if key.startswith("optimizer/"):
            name, _, field = key.removeprefix("optimizer/").rpartition("/")
            parameter, kind = parameters[name], info.properties.dtype
            if info.size == parameter.shape:
                value = torch.zeros_like(parameter, dtype=kind, requires_grad=False)
            else:
                value = torch.zeros(info.size, dtype=kind)
            optimizer.state[parameter][field] = targets[key] = value
    read(files, targets, group)


def stored(files: list[Path]) -> dict:
    """Names of the tensors in files -> what is known of them without reading them."""
    return reader_of(files).read_metadata().state_dict_metadata


def reader_of(files: list[Path]):
    """A reader of these files alone."""
    from torch.distributed.checkpoint import HuggingFaceStorageReader

    reader = HuggingFaceStorageReader(str(files[0].parent))
    reader.fs.ls = lambda folder: list(map(str, files))
    return reader


def read(files: list[Path], targets: dict[str, Tensor], group=None) -> None:
    """Fill tensors by name, each rank the parts it holds; UserError for names or shapes that are
    not in the files.
    """
    import torch.distributed.checkpoint as dcp

    found = stored(files)
    for name, target in targets.items():
        if name not in found:
            raise UserError(f"{files[0].parent} has no {name!r}, which this model needs")
        if found[name].size != target.shape:
            theirs, ours = tuple(found[name].size), tuple(target.shape)
            raise UserError(
                f"{name!r} has shape {theirs} in {files[0].parent}, {ours} in this model"
            )
    if strange := sorted(set(found) - set(targets)):
        raise UserError(f"{files[0].parent} has {strange[0]!r}, which this model has not")
    with torch.no_grad():
        try:
            dcp.load(targets, storage_reader=reader_of(files), no_dist=group is None)
        except dcp.CheckpointException as error:
            cause = " ".join(str(next(iter(error.failures.values()))[0]).split())[:120]
            raise UserError(f"cannot read {files[0].parent}: {cause}; {READ_AGAIN}") from None
