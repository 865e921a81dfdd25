"""What the decoding ablation draws: cells of sweeps, each a system under one setting.

A cell is drawn for `prompts` captions of a split with `seeds` sampling seeds; pictures are kept
like any system's, so a killed run draws nothing twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cm3leon.config import to_dict
from cm3leon.decoding.config import DecodeConfig
from cm3leon.pipeline import System

GREEDY = "greedy"  # the cell of CD with k = 1 and temperature 0


@dataclass(frozen=True)
class Plan:
    """How much is drawn. Choices are made on `val`; `test` sees the pool and the captions alone."""

    weights: tuple[float, ...] = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)  # of guidance
    weight_prompts: int = 160
    ks: tuple[int, ...] = (1, 2, 4, 8, 32)
    alphas: tuple[float, ...] = (0.1, 0.3, 0.6, 1.0)
    temperatures: tuple[float, ...] = (0.4, 0.6, 0.8, 1.0)
    masses: tuple[float, ...] = (0.7, 0.9, 1.0)  # of top-p
    cell_prompts: int = 48
    cell_seeds: tuple[int, ...] = (0, 1)
    pool_prompts: int = 64
    pool_samples: int = 32
    captions: int = 96

    @property
    def counts(self) -> tuple[int, ...]:
        """Samples a prompt of Figure 4, right: 1, 2, 4, .. up to the pool's."""
        return tuple(
            2**k for k in range(self.pool_samples.bit_length()) if 2**k <= self.pool_samples
        )


QUICK = Plan(
    weights=(1.0, 2.0, 4.0), weight_prompts=16, ks=(1, 4), alphas=(0.3, 1.0),
    temperatures=(0.6, 1.0), masses=(0.9, 1.0), cell_prompts=8, pool_prompts=12, pool_samples=4,
    captions=16,
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One setting of one system."""

    name: str  # without dots: it stands inside the name of a number
    system: System
    prompts: int
    seeds: tuple[int, ...] = (0,)

    @property
    def about(self) -> dict:
        """For the protocol."""
        decode = to_dict(self.system.decode)
        documents = self.system.retriever.config.documents if self.system.retriever else 0
        return {"system": self.system.name, "documents": documents, "decode": decode}


def label(value: float) -> str:
    """A number inside a cell's name: 1.5 -> 1_5."""
    return f"{value:g}".replace(".", "_")


def set_to(system: System, **changes) -> System:
    """The system under changed settings of drawing."""
    return system.with_decode(replace(system.decode, **changes))


def guidance_cells(sizes: Sequence[System], plan: Plan) -> list[Cell]:
    """Figure 4, left: every size at every weight, drawn at temperature 1 from all tokens."""
    return [
        Cell(
            f"{size.name}-w{label(weight)}",
            set_to(size, strategy="guide", guidance=weight, temperature=1.0, top_p=1.0),
            plan.weight_prompts,
        )
        for size in sizes
        for weight in plan.weights
    ]


def surface_cells(system: System, plan: Plan) -> list[Cell]:
    """CD-K over k and alpha at temperature 1, and its greedy limit: k = 1, the likeliest token."""
    base = {"strategy": "contrast", "temperature": 1.0, "top_p": 1.0, "top_k": None}
    cells = [
        Cell(
            f"k{k}-a{label(alpha)}",
            set_to(system, **base, k=k, alpha=alpha),
            plan.cell_prompts,
            plan.cell_seeds,
        )
        for k in plan.ks
        for alpha in plan.alphas
    ]
    limit = set_to(system, **(base | {"temperature": 0.0}), k=1, alpha=plan.alphas[0])
    return [*cells, Cell(GREEDY, limit, plan.cell_prompts, plan.cell_seeds)]


def nucleus_cells(system: System, plan: Plan) -> list[Cell]:
    """Temperature x top-p under the system's own guidance."""
    return [
        Cell(
            f"t{label(heat)}-p{label(mass)}",
            set_to(system, strategy="guide", temperature=heat, top_p=mass),
            plan.cell_prompts,
            plan.cell_seeds,
        )
        for heat in plan.temperatures
        for mass in plan.masses
    ]


def reading_cells(system: System, plan: Plan) -> list[Cell]:
    """Readings of the unconditional stream (A32) with two documents, and without (all are one)."""
    config = system.retriever.config
    none = system.with_retrieval(replace(config, documents=0))
    two = system.with_retrieval(replace(config, documents=2))
    cells = [Cell("documents-0", none, plan.cell_prompts, plan.cell_seeds)]
    for reading in ("mask", "drop", "bare"):
        cell = Cell(
            f"documents-2-{reading}",
            set_to(two, unconditional=reading),
            plan.cell_prompts,
            plan.cell_seeds,
        )
        cells.append(cell)
    return cells


def best_cell(scores: Mapping[str, float]) -> str:
    """The cell with the lowest FID; of equal ones the first."""
    return min(scores, key=scores.get)


def strategies(
    system: System, surface: Mapping[str, float], nucleus: Mapping[str, float], plan: Plan
) -> dict[str, DecodeConfig]:
    """The pool's ways to draw, each at its best cell on `val`: temperature, top-p, CD-K."""
    by_name = {cell.name: cell.system.decode for cell in nucleus_cells(system, plan)}
    by_name |= {cell.name: cell.system.decode for cell in surface_cells(system, plan)}
    whole = {name: fid for name, fid in nucleus.items() if by_name[name].top_p == 1}
    cut = {name: fid for name, fid in nucleus.items() if by_name[name].top_p < 1}
    sampled = {name: fid for name, fid in surface.items() if name != GREEDY}
    groups = {"temperature": whole, "top-p": cut, "cd-k": sampled}
    return {name: by_name[best_cell(scores)] for name, scores in groups.items()}
