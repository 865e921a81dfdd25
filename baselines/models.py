"""The page of the shipped models: sizes, scores, tasks, and the words they know.

python -m baselines.models          writes docs/models.md from the weights and the records
"""

from __future__ import annotations

import sys
from pathlib import Path

from baselines.cards import results
from cm3leon.checkpoint import read_about, total_cost
from cm3leon.files import baselines_folder, write_atomic
from cm3leon.loading import model_names

PAGE = Path(__file__).resolve().parents[1] / "docs" / "models.md"
HEAD = """# Models

The models that are shipped, each with its card beside the weights: how it was made, at what cost, its losses, what it draws. `cm3leon draw --system NAME` and `c.load("NAME")` take them by name; `cm3leon export NAME FOLDER` writes one for Hugging Face's libraries.
[Gallery](gallery.md) shows what they draw, [Results](results.md) has all numbers with their intervals. This page is written by `python -m baselines.models`.
"""  # noqa: E501
NUMBERS = """
FID is that of the embedded world's own network, never comparable with an Inception FID; composition is the share of captions of `{split}` whose picture holds all they ask for. A dash: not measured yet.
"""  # noqa: E501
WORDS = """## Words they know

All were trained on the embedded world, and on nothing else. A caption in other words is drawn, but means little to them.
"""  # noqa: E501


def row(name: str) -> list[str]:
    """A model as cells of the table."""
    from cm3leon.config import ModelConfig, from_dict

    folder = baselines_folder() / "scenes" / name
    about = read_about(folder)
    model, extra = from_dict(ModelConfig, about["config"]), about["extra"]
    found = {one.metric: f"{one.value:.3g}" for one in results(name)}
    tokens = total_cost(extra).get("tokens", 0)
    documents = extra.get("retrieval", {}).get("documents", 0)
    return [
        f"`{name}`",
        f"`baselines/scenes/{name}/README.md`",
        f"{model.parameters / 1e6:.1f}M, {model.layers} x {model.width}",
        f"{tokens / 1e6:.1f}M",
        str(documents),
        found.get("fid_scenes", "-"),
        found.get("composition_overall", "-"),
        ", ".join(extra.get("tasks", {})) or "draw, caption, infill",
    ]


def words() -> str:
    """What captions, instructions and questions are made of."""
    from cm3leon.world.language import NUMBERS as COUNTS
    from cm3leon.world.language import RELATIONS
    from cm3leon.world.scenes import ENTITIES, SEEN_ENTITIES
    from cm3leon.world.sprites import COLOURS, PATTERNS, PLACES, SHAPES, SIZES

    known = {
        "shapes": SHAPES, "colours": COLOURS, "sizes": SIZES, "patterns": PATTERNS,
        "places": PLACES, "counts": COUNTS.values(), "relations": RELATIONS,
    }  # fmt: skip
    lines = [f"| {name} | {', '.join(values)} |" for name, values in known.items()]
    lines.append(
        f"| entities | {ENTITIES:,} names of three syllables, {SEEN_ENTITIES:,} of them seen in "
        "training; with documents the others are drawn too |"
    )
    return "\n".join(["| kind | words |", "|---|---|", *lines])


def main() -> int:
    """Write the page; the exit code."""
    headers = ["model", "card", "parameters", "tokens seen", "documents", "fid\\_scenes",
               "composition", "tuned on"]  # fmt: skip
    rows = [headers, ["---"] * len(headers), *map(row, model_names())]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in rows)
    parts = [HEAD, table, NUMBERS.format(split="natural"), WORDS, words()]
    print(write_atomic(PAGE, "\n\n".join(part.strip() for part in parts) + "\n"))
    return 0


if __name__ == "__main__":
    from cm3leon.reports import called, guarded

    sys.exit(guarded(lambda: called(main)))
