"""What a network finds hard about a picture of the embedded world: its loss by role of the token.

In raster order the cells of a picture are ground until an object begins: where it begins is one
choice, what begins there another, and the rest of the object follows from both. A cell shows ground
when its code is one that its place has there (all places repeat every second row and column).

Axes: N documents, B rows of a batch, T tokens, K codes of a picture, C codes of the vocabulary.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cm3leon.config import ModelConfig
from cm3leon.sequence.documents import Vocabulary
from cm3leon.sequence.masking import rotate
from cm3leon.training.batches import collate
from cm3leon.training.pairs import HeldOut
from cm3leon.world.scenes import Plan, scene
from cm3leon.world.sprites import CELLS, SIZES

if TYPE_CHECKING:
    from torch import Tensor, nn

ROLES = ("ground", "where", "what", "rest")
GROUND, BEGINS, REST = range(3)  # of a cell; a cell that begins an object counts as where and what
ROWS = 16  # whose logits are held at once


@dataclass(frozen=True)
class Truth:
    """Roles of the cells of pictures, and the codes that show ground there."""

    roles_NK: np.ndarray  # int8
    ground_NKC: np.ndarray  # bool


def role_losses(
    held: HeldOut, vocabulary: Vocabulary, model: ModelConfig | None = None
) -> Callable[[nn.Module], dict]:
    """Held-out losses by role, rows as in `pairs.pair_held_out`.

    "ground", "rest", "where" and "what" are nats a token: where is -log of the probability that no
    ground is shown where an object begins, what the rest of that token's loss. "picture" is the sum
    over a picture's tokens, on average. Empty unless the cache is of scenes of the embedded world,
    with a code for each of their cells.
    """
    cache, count = held.cache, len(held.which)
    addresses = [cache.address(at) for at in held.which]
    if None in addresses or len(cache.codes(held.which[0])) != CELLS**2:
        return lambda module: {}
    codes_NK = np.stack([cache.codes(at) for at in held.which]).astype(np.int64)
    truth = truth_of([scene(*one).plan for one in addresses], codes_NK, vocabulary.image_size)
    rows = [rotate(ids, [], vocabulary) for ids in held.samples(vocabulary)]

    def evaluate(module: nn.Module) -> dict:
        sums = defaultdict(float)
        for start in range(0, count, ROWS):
            part = slice(start, start + ROWS)
            logs_BKC, kept_BK = code_logs(module, rows[part], vocabulary, model)
            for name, value in sums_by_role(logs_BKC, kept_BK, codes_NK, truth, part).items():
                sums[name] += value
        found = {name: sums[name] / max(1, sums[f"{name}_tokens"]) for name in ROLES}
        return found | {"picture": sum(sums[name] for name in ROLES) / count}

    return evaluate


def truth_of(plans: list[Plan], codes_NK: np.ndarray, codebook_size: int) -> Truth:
    """Roles and codes of the ground, from what stands where and from the codes of all pictures."""
    blocks = [[block_of(thing) for thing in plan.things] for plan in plans]
    bare_NK = np.array([~np.any([np.zeros(CELLS**2, bool), *some], axis=0) for some in blocks])
    phase_K = [at // CELLS % 2 * 2 + at % CELLS % 2 for at in range(CELLS**2)]
    ground = defaultdict(lambda: np.zeros(codebook_size, bool))
    for plan, codes_K, bare_K in zip(plans, codes_NK, bare_NK, strict=True):
        for at in np.flatnonzero(bare_K):
            ground[plan.place, phase_K[at]][codes_K[at]] = True
    ground_NKC = np.stack([[ground[plan.place, phase] for phase in phase_K] for plan in plans])
    shows_NK = ~np.take_along_axis(ground_NKC, codes_NK[..., None], 2)[..., 0]
    roles_NK = [roles_of(some, shows_K) for some, shows_K in zip(blocks, shows_NK, strict=True)]
    return Truth(np.array(roles_NK), ground_NKC)


def block_of(thing: tuple) -> np.ndarray:
    """Bool [K]: the cells that a planned thing may cover."""
    (column, row), side = thing[5], SIZES[thing[2]]
    block = np.zeros((CELLS, CELLS), bool)
    top, left = row - side // 2, column - side // 2
    block[top : top + side, left : left + side] = True
    return block.ravel()


def roles_of(blocks: list[np.ndarray], shows_K: np.ndarray) -> np.ndarray:
    """Int8 [K]: a thing begins in the first cell of its block that does not show ground; what of
    the block comes before that is ground, what comes after is rest.
    """
    roles_K, begins = np.full(CELLS**2, GROUND, np.int8), []
    for block_K in blocks:
        shown = np.flatnonzero(block_K & shows_K)
        if len(shown):
            begins.append(shown[0])
            roles_K[shown[0] :][block_K[shown[0] :]] = REST
    roles_K[begins] = BEGINS
    return roles_K


def code_logs(
    module: nn.Module, rows: list, vocabulary: Vocabulary, model: ModelConfig | None
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the codes at the cells of each row's last picture, float32 [B, K, C],
    and which of the cells are left in a row that the context cuts, bool [B, K].
    """
    import torch

    device = next(module.parameters()).device
    inputs = collate(rows, {}, vocabulary, model)
    ids_BT, positions_BT = inputs["ids_BT"].to(device), inputs["positions_BT"].to(device)
    starts = [len(ids) - 1 - CELLS**2 for ids, _ in rows]  # behind the picture is <eos>
    at_BK = torch.tensor(starts, device=device)[:, None] + torch.arange(CELLS**2, device=device)
    kept_BK = at_BK < ids_BT.shape[1]
    hidden_BTD = module.hidden(ids_BT[:, :-1], positions_BT[:, :-1])
    before_BK = (at_BK - 1).clamp(max=hidden_BTD.shape[1] - 1)
    rows_B1 = torch.arange(len(rows), device=device)[:, None]
    logs_BKV = module.logits(hidden_BTD[rows_B1, before_BK]).float().log_softmax(-1)
    return logs_BKV[..., vocabulary.image_start : vocabulary.image_end], kept_BK


def sums_by_role(
    logs_BKC: Tensor, kept_BK: Tensor, codes_NK: np.ndarray, truth: Truth, part: slice
) -> dict[str, float]:
    """Nats of each role, and under `<role>_tokens` the number of its tokens."""
    import torch

    codes_BK, roles_BK, ground_BKC = (
        torch.as_tensor(array[part], device=logs_BKC.device)
        for array in (codes_NK, truth.roles_NK, truth.ground_NKC)
    )
    loss_BK = -logs_BKC.gather(2, codes_BK[..., None])[..., 0]
    where_BK = -logs_BKC.masked_fill(ground_BKC, -torch.inf).logsumexp(-1)
    parts = {
        "ground": (loss_BK, GROUND),
        "where": (where_BK, BEGINS),
        "what": (loss_BK - where_BK, BEGINS),
        "rest": (loss_BK, REST),
    }
    sums = {}
    for name, (nats_BK, role) in parts.items():
        chosen_BK = (roles_BK == role) & kept_BK
        sums[name] = float(nats_BK[chosen_BK].sum())
        sums[f"{name}_tokens"] = int(chosen_BK.sum())
    return sums
