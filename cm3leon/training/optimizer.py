"""Optimisers: AdamW, the paper's family, and Muon, which needs about half as many tokens here.

Muon (Jordan 2024; its scale to AdamW's step size after Liu et al. 2025, arXiv 2502.16982) replaces
the momentum of every matrix of the blocks by the nearest semi-orthogonal matrix, so that rare
directions, which is what "a dotted crescent on water" is, learn as fast as common ones. Embeddings,
positions and everything that is not such a matrix stay with AdamW.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import torch
from torch import Tensor, nn

from cm3leon.config import TrainConfig

MOMENTUM = 0.95
ROUNDS = 5  # of Newton-Schulz
# Wishes, of which this process holds parts, and a function from whole ones and their numbers to the
# changes of their matrices -> the parts of all changes: each product is made once.
Spread = Callable[[list[Tensor], Callable[[list[Tensor], list[int]], list[Tensor]]], list[Tensor]]
QUINTIC = (3.4445, -4.7750, 2.0315)  # sends singular values of (0, 1] near 1, see `orthogonal`


def make_optimizer(module: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimiser of `config.optimizer`; weight decay on matrices and kernels, not on positions
    or 1-d parameters.
    """
    matrices = []
    if config.optimizer == "muon":
        matrices = [(name, p) for name, p in module.named_parameters() if is_matrix(name, p)]
    taken = {id(parameter) for _, parameter in matrices}
    decayed, free = [], []
    for name, parameter in module.named_parameters():
        if id(parameter) not in taken:
            plain = parameter.ndim < 2 or "position" in name
            (free if plain else decayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    adamw = None
    if groups:
        adamw = torch.optim.AdamW(groups, lr=config.rate, betas=config.betas, fused=True)
    return Muon(matrices, adamw, config) if matrices else adamw


def precision(config: TrainConfig, device: torch.device | str) -> torch.dtype:
    """The type of matrix products (A54): torch.bfloat16 where "auto" finds hardware for it.

    Weights, gradients and the optimiser's moments stay float32. A CPU without bf16 units runs bf16
    up to a hundred times slower than float32, hence the question.
    """
    if config.precision != "auto":
        return getattr(torch, config.precision)
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    able = torch.cpu.get_capabilities() if kind == "cpu" else {}
    return torch.bfloat16 if able.get("avx512_bf16") or able.get("amx_bf16") else torch.float32


def is_matrix(name: str, parameter: Tensor) -> bool:
    """Whether Muon takes it: a matrix between two hidden states, not a table of vectors."""
    return parameter.ndim == 2 and "blocks." in name


class Muon(torch.optim.Optimizer):
    """Muon for `matrices`, (name, parameter) pairs, and `adamw`, if any, for the others, as one.

    The first group holds the matrices; like all groups it carries the scheduled rate as "lr".
    """

    def __init__(
        self,
        matrices: list[tuple[str, nn.Parameter]],
        adamw: torch.optim.AdamW | None,
        config: TrainConfig,
    ):
        group = {"params": [p for _, p in matrices], "weight_decay": config.weight_decay}
        super().__init__([group], {"lr": config.rate})
        # Queries, keys and values are three matrices in one.
        self.parts = {p: 3 if name.endswith("qkv.weight") else 1 for name, p in matrices}
        self.ratio, self.adamw = config.matrix_ratio, adamw
        self.cast = precision(config, matrices[0][1].device)  # of Newton-Schulz
        self.spread: Spread | None = None  # where matrices lie in parts on several processes
        if adamw:
            self.param_groups += adamw.param_groups  # the same dicts: one schedule for both
            adamw.state = self.state  # the same dict: saved and restored as one

    @torch.no_grad()
    def step(self, closure=None) -> None:
        """One update of every parameter that has a gradient."""
        if self.adamw:
            self.adamw.step()
        group = self.param_groups[0]
        rate, decay = group["lr"] * self.ratio, group["weight_decay"]
        moved = [parameter for parameter in group["params"] if parameter.grad is not None]
        parts, wishes = [self.parts[p] for p in moved], [self._wish(p) for p in moved]
        if self.spread is None:
            self._turn(moved, wishes, parts, rate, decay)
            return

        def changes(wishes: list[Tensor], which: list[int]) -> list[Tensor]:
            found = [torch.zeros_like(wish) for wish in wishes]
            self._turn(found, wishes, [parts[at] for at in which], rate, 0)
            return found

        for parameter, change in zip(moved, self.spread(wishes, changes), strict=True):
            parameter.mul_(1 - rate * decay).add_(change)

    def _turn(self, matrices, wishes, parts: list[int], rate: float, decay: float) -> None:
        """Decay each matrix and move it along the nearest semi-orthogonal one to its wish."""
        alike = defaultdict(list)  # equal shapes are one batch of products
        for matrix, whole, count in zip(matrices, wishes, parts, strict=True):
            for piece, wish in zip(pieces(matrix, count), pieces(whole, count), strict=True):
                alike[wish.shape].append((piece, wish))
        for shape, pairs in alike.items():
            found = orthogonal(torch.stack([wish for _, wish in pairs]), self.cast)
            for (piece, _), change in zip(pairs, found, strict=True):
                piece.mul_(1 - rate * decay)
                piece.add_(change, alpha=-0.2 * rate * max(shape) ** 0.5)

    def _wish(self, parameter: nn.Parameter) -> Tensor:
        """Nesterov's momentum of the gradient."""
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(parameter.grad, 1 - MOMENTUM)
        return parameter.grad.lerp(state["momentum"], MOMENTUM)


def pieces(matrix_RC: Tensor, parts: int) -> tuple[Tensor, ...]:
    """Views of the `parts` matrices stacked in one, each turned to be wide rather than tall."""
    views = matrix_RC.chunk(parts)
    return tuple(view.mT if view.shape[0] > view.shape[1] else view for view in views)


def orthogonal(matrices_NRC: Tensor, cast: torch.dtype = torch.float32) -> Tensor:
    """About U V^T of each matrix U S V^T, by Newton-Schulz in the type `cast`; R <= C saves work.

    Singular values from a tenth of the largest on come out between 0.65 and 1.21 (tested; in
    bfloat16, as Muon was published, between 0.6 and 1.25), not at 1: the quintic is tuned for its
    slope at zero.
    """
    a, b, c = QUINTIC
    x_NRC = matrices_NRC / matrices_NRC.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-7)
    x_NRC = x_NRC.to(cast)
    for _ in range(ROUNDS):
        gram_NRR = x_NRC @ x_NRC.mT
        powers_NRR = torch.baddbmm(gram_NRR, gram_NRR, gram_NRR, beta=b, alpha=c)
        x_NRC = torch.baddbmm(x_NRC, powers_NRR, x_NRC, beta=a)
    return x_NRC
