"""Cards of the shipped weights: what a model is, how it was made, at what cost, and what it draws.

python -m baselines.cards            writes README.md, loss.png and samples.png into each folder
"""

from __future__ import annotations

import sys
from pathlib import Path

from baselines.recipes import cpu_recipe
from baselines.train import SMALL
from cm3leon.checkpoint import read_about, total_cost
from cm3leon.errors import UserError
from cm3leon.files import baselines_folder, parse_json, write_atomic
from cm3leon.interop.hf_card import Result, header
from cm3leon.retrieval.packed import BANK, unpack
from cm3leon.world.scenes import ABOUT_ONE, PLAIN, SEEN

SAMPLES = 24  # captions of `coco`, `val`; never of `test`
# Beginning of the weights' SHA-256 -> the commit whose recipe made them; today's makes others.
EARLIER = dict.fromkeys(("f5eb06c3", "eedfe788", "f3f346d9", "23921fe0"), "68f3a7b")
EARLIER["22fdef57"] = "1171688"
LICENCE = "Apache-2.0, weights and data: both were made by this repository"


def main() -> int:
    """Write the card of every checkpoint under `baselines/scenes/`; returns the exit code."""
    home = baselines_folder() / "scenes"
    folders = sorted(path.parent for path in home.glob("*/config.json"))
    if not folders:
        raise UserError(f"no checkpoint under {home}; run nox -s train_baselines")
    for folder in folders:
        about = read_about(folder)
        card = CARDS[about["kind"]]
        write_atomic(folder / "README.md", card(folder, about))
        print(folder / "README.md", file=sys.stderr)
    if (home / "bank" / BANK).exists():
        write_atomic(home / "bank" / "README.md", bank_card(home / "bank" / BANK))
    return 0


def read_log(folder: Path) -> list[dict]:
    """Records of a training's log beside the weights; empty when none was kept."""
    path = folder / "log.jsonl"
    if not path.exists():
        return []
    return [parse_json(line, path) for line in path.read_text().splitlines() if line]


def facts_table(facts: dict) -> str:
    """Two columns in Markdown."""
    rows = [f"| {name} | {value} |" for name, value in facts.items()]
    return "\n".join(["| | |", "|---|---|", *rows])


def settings(values: dict) -> str:
    """A configuration as `name value` pairs."""
    return ", ".join(f"{name} {value}" for name, value in values.items())


def minutes(seconds: float) -> str:
    """Wall-clock of a training, in minutes."""
    return f"{seconds / 60:.0f} minutes"


def transformer_card(folder: Path, about: dict) -> str:
    """Card of a transformer, with its loss curve and samples."""
    from cm3leon.config import ModelConfig, from_dict
    from cm3leon.reports.curves import draw_losses

    extra, log = about["extra"], read_log(folder)
    model = from_dict(ModelConfig, about["config"])
    cost = total_cost(extra)
    held = [record for record in log if "held_out_loss" in record]
    facts = {
        "parameters": f"{model.parameters:,}, stored in bfloat16",
        "network": f"{model.layers} layers x {model.width}, {model.heads} heads, "
        f"context {model.context}",
        **(tuned_facts(extra) if "tasks" in extra else data_facts(extra)),
        "training": settings(extra["train"]),
        **({"second leg": settings(extra["again"])} if "again" in extra else {}),
        **(cost_facts(cost) if cost else {}),
        "cost": f"{minutes(extra['seconds'])} on {extra['device']}",
        "sha256 of the weights": f"`{about['sha256']}`",
        "licence": LICENCE,
    }
    if held and "held_out_image" in held[-1]:
        last = held[-1]
        facts |= {
            "held-out loss (`stock`, `val`)": f"{last['held_out_image']:.3f} nats an image token "
            f"({last['held_out_image_free']:.3f} with the caption masked), "
            f"{last['held_out_text']:.3f} a text token"
        }
        if "held_out_image_alone" in last:
            facts |= document_facts(last)
    facts |= scores(folder.name)
    head = header(folder.name, "text-to-image", "apache-2.0", results(folder.name))
    title = f"{head}\n\n# {folder.name}\n\nA decoder-only CM3 transformer of the embedded world."
    body = [title, facts_table(facts)]
    if log:
        draw_losses(log, folder / "loss.png")
        body.append("![loss](loss.png)")
    draw_samples(folder.name, folder / "samples.png")
    body.append(
        f"The first {SAMPLES} captions of `coco`, `val`, seed 0, none chosen:\n\n"
        "![samples](samples.png)"
    )
    body.append(retrain(folder.name, about["sha256"], extra))
    return "\n\n".join(body) + "\n"


def retrain(part: str, sha256: str, extra: dict | None = None) -> str:
    """The command that makes the weights again, at the commit whose recipe made them."""
    command = f"nox -s train_baselines -- --parts {part} --fresh"
    extra = extra or {}
    if part in SMALL and "train" in extra:
        own, steps = cpu_recipe(part).train, extra["train"]["steps"]
        if "before" in extra:
            steps += extra["before"]["queries"] // own.batch
        command += f" --steps {steps}" if steps != own.steps else ""
    if "tasks" in extra:
        rows = round(extra["cost"]["queries"], -3)
        command = f"python -m baselines.tune_tasks --model {extra['start']} --rows {rows}"
    if "before" in extra:
        return f"Trained in two legs; as long in one go, which makes other weights: `{command}`"
    commit = EARLIER.get(sha256[:8])
    if commit is None:
        return f"Retrain: `{command}`"
    return (
        f"Retrain: `git checkout {commit} && {command}`: that commit has the recipe of these "
        "weights, today's makes others."
    )


def cost_facts(cost: dict[str, float]) -> dict[str, str]:
    """Tokens and FLOPs of a training, with that it goes on from."""
    return {
        "tokens seen": f"{cost['tokens'] / 1e6:.1f}M",
        "compute": f"{cost['flops']:.2g} FLOPs (6 N D)",
    }


def data_facts(extra: dict) -> dict[str, str]:
    """What it was trained on, and which documents stood before the samples."""
    facts = {"goes on from": f"`{extra['start']}`"} if "start" in extra else {}
    if "before" in extra:
        facts["goes on from"] += f", which had seen {extra['before']['tokens'] / 1e6:.1f}M tokens"
    parts = ", ".join(f"{part['count']:,} of `{part['split']}`" for part in queries_of(extra))
    facts |= {
        "data": f"scenes of `stock`: {parts}, one of five captions each; none about entities that "
        "never occur in `train`",
        "retrieved documents": "none",
    }
    if extra.get("bursts"):
        share = f"{extra['bursts']:.0%} of those about an entity"
        facts["data"] += f"; the documents of {share} chosen by name"
    if "retrieval" in extra:
        shares = ", ".join(f"{share:g} with {n}" for n, share in enumerate(extra["shares"]))
        facts["retrieved documents"] = (
            f"in training: of the steps {shares}; found by {settings(extra['neighbours'])}. "
            f"In drawing: {settings(extra['retrieval'])}"
        )
    facts["objective"] = settings(extra["objective"])
    return facts | ({"note": extra["note"]} if "note" in extra else {})


def tuned_facts(extra: dict) -> dict[str, str]:
    """Of a model tuned on tasks: what it began with, their records, how each is decoded."""
    rows = extra["rows"]
    chosen = {task: settings(values) for task, values in extra.get("task_decode", {}).items()}
    return {
        "goes on from": f"`{extra['start']}`, sha256 `{extra['start_sha256']}`",
        "records by task": ", ".join(f"{task} {n:,}" for task, n in extra["tasks"].items()),
        "rows read": f"{extra['cost']['queries']:,}; loss on {rows['loss']}; prompts without text, "
        f"without pictures {rows['drop_text']:.0%}, {rows['drop_image']:.0%}, "
        f"without both {rows['drop_both']:.0%}",
        "retrieved documents": "before half of the rows of `draw`, as in drawing: "
        + settings(extra["retrieval"]),
        "settings by task, chosen on `val`": "; ".join(f"{k}: {v}" for k, v in chosen.items()),
    }


def queries_of(extra: dict) -> list[dict]:
    """Split, first scene and count of each part of the queries, also of older checkpoints."""
    first = extra.get("first", 0)
    count = extra.get("pictures", 0) - first
    return extra.get("queries") or [
        {"split": extra.get("split", "train"), "first": first, "count": count}
    ]


def tokenizer_data(extra: dict) -> str:
    """The pictures that an image tokenizer was trained on."""
    if "decoder" not in extra:
        return (
            "pictures of `stock`, `train`; of two neighbours the one with more objects, and every "
            "third one with a tail entity where 24 neighbours hold one"
        )
    return (
        "of 20 pictures ten scenes of `stock`, `train`, as before, four of tail entities that "
        "occur in training, each as often, four conditions, two signs; then the decoder alone on "
        f"the codes that are left, {extra['decoder']['steps']:,} steps, more entities and signs"
    )


def document_facts(last: dict) -> dict[str, str]:
    """Held-out losses with and without documents."""
    facts = {}
    for prefix, name in (("held_out_", "`val`"), ("held_out_tail_", "tail entities")):
        facts[f"image loss, 0 and 2 documents ({name}, `stock`)"] = (
            f"{last[f'{prefix}image_alone']:.3f}, {last[f'{prefix}image']:.3f} nats a token"
        )
    return facts


def records_of(name: str) -> list[dict]:
    """The record of `fid_coco` that speaks for a model; none before there is one."""
    from cm3leon.reports import newest
    from cm3leon.reports.readme import headline
    from cm3leon.reports.records.store import read_all

    try:
        found = headline(newest(read_all(bench="fid_coco")))
    except ValueError:
        return []
    return [one for one in found if one["system"]["name"] == name]


def results(name: str) -> list[Result]:
    """The numbers of its record for the header of its card."""
    from cm3leon.reports import extra

    found = []
    for record in records_of(name):
        of = {"task": "text-to-image", "dataset": "cm3leon/scenes (coco)"}
        of["split"] = record["protocol"].get("headline", "test")
        fid = f"FID by the embedded world's network, n={record['n']:,}"
        found.append(Result(**of, metric="fid_scenes", value=record["value"], name=fid))
        for measure in ("overall", "position", "attribution"):
            if one := extra(record, measure):
                told = f"composition, {measure}: share of captions drawn right"
                found.append(
                    Result(**of, metric=f"composition_{measure}", value=one["value"], name=told)
                )
    return found


def scores(name: str) -> dict[str, str]:
    """FID and composition of its record in words."""
    from cm3leon.reports import extra
    from cm3leon.reports.tables import number, span

    found = {}
    for record in records_of(name):
        interval = record["interval"] or {}
        ends = span(record["value"], interval.get("low"), interval.get("high"))
        split = record["protocol"].get("headline", "test")
        found[f"fid_scenes (`coco`, `{split}`)"] = (
            f"{number(record['value'])} {ends}, n={record['n']}"
        )
        if overall := extra(record, "overall"):
            found["composition, overall"] = f"{overall['value']:.3f}"
    return found


def draw_samples(name: str, path: Path) -> None:
    """A captioned grid of drawings."""
    from cm3leon import seeds
    from cm3leon.loading import load_system
    from cm3leon.reports.plots import sample_grid
    from cm3leon.world.scenes import scene

    captions = [scene("coco", "val", index).captions[0] for index in range(SAMPLES)]
    seed_of = [seeds.derive(0, "card", index) for index in range(SAMPLES)]
    sample_grid(load_system(name).draw(captions, seed_of), captions, path)


def vq_card(folder: Path, about: dict) -> str:
    """Card of the image tokenizer, with pictures beside their reconstructions."""
    import numpy as np

    from baselines.tokenizers import held_out_pictures
    from cm3leon.config import VQConfig
    from cm3leon.loading import load_module
    from cm3leon.reports.plots import sample_grid
    from cm3leon.tokenizers.vq import VQ
    from cm3leon.training.image_tokenizer import reconstruct

    extra = about["extra"]
    images = held_out_pictures(12)
    rebuilt = reconstruct(load_module(folder, "vq", VQConfig, VQ)[0], images)
    both = [picture for pair in zip(images, rebuilt, strict=True) for picture in pair]
    sample_grid(np.stack(both), ["picture", "reconstruction"] * 12, folder / "samples.png")
    held = [record for record in read_log(folder) if "held_out_psnr" in record]
    facts = {
        "shape": settings(about["config"]),
        "data": tokenizer_data(extra),
        "loss": settings(extra["loss"]),
        "training": settings(extra["recipe"]),
        "cost": f"{minutes(extra['seconds'])} on {extra.get('device', 'CPU')}",
        "sha256 of the weights": f"`{about['sha256']}`",
        "licence": LICENCE,
    }
    if held:
        facts |= {
            "held-out PSNR (`stock`, `val`)": f"{held[-1]['held_out_psnr']:.2f} dB",
            "codes used": f"{held[-1]['held_out_codes_used']:.0f} of those pictures, then merged "
            f"within {extra['merge_radius']}: {extra['codes_left']} are left",
        }
    return "\n\n".join(
        [
            "# Image tokenizer of the embedded world\n\n"
            "Stride 8: 64 x 64 pixels, 8 x 8 codes. The decoder has taming-transformers' layout; "
            "the encoder reads each cell alone, so that the same pixels have the same code "
            "everywhere.",
            facts_table(facts),
            "The first 12 pictures of `stock`, `val`:\n\n![samples](samples.png)",
            f"{retrain('vq', about['sha256'])}\n",
        ]
    )


def features_card(folder: Path, about: dict) -> str:
    """Card of the feature network."""
    extra = about["extra"]
    held = [record for record in read_log(folder) if "held_out_loss" in record]
    facts = {
        "shape": settings(about["config"]),
        "data": "pictures of `train`, both dialects in turn; asked what the scene holds",
        "training": settings(extra["recipe"]),
        "cost": f"{minutes(extra['seconds'])} on {extra.get('device', 'CPU')}",
        "sha256 of the weights": f"`{about['sha256']}`",
        "licence": LICENCE,
    }
    if held:
        right = held[-1]["held_out_answers_right"]
        facts |= {"held-out answers right (`val`)": f"{100 * right:.2f} %"}
    return "\n\n".join(
        [
            "# Feature network of `fid_scenes`\n\n"
            "Its pooled features stand where Inception's stand for MS-COCO. "
            "Never trained on drawn pictures.",
            facts_table(facts),
            "Retrain: `nox -s train_baselines -- --parts features --fresh`\n",
        ]
    )


def clip_card(folder: Path, about: dict) -> str:
    """Card of the CLIP."""
    extra = about["extra"]
    log = read_log(folder)
    facts = {
        "shape": settings(about["config"]),
        "data": "half scenes of `stock`, `train`, half scenes of `study` about entities that "
        "occur in `train`",
        "first stage": "pictures and captions, texts and captions; " + settings(extra["first"]),
        "second stage": "pictures and captions, texts and documents; " + settings(extra["second"]),
        "cost": f"{minutes(extra['seconds'])} on {extra.get('device', 'CPU')}",
        "sha256 of the weights": f"`{about['sha256']}`",
        "licence": LICENCE,
    }
    for way, name in (("text_to_image", "text to picture"), ("image_to_text", "picture to text")):
        if log:
            values = [log[-1][f"held_out_{way}_recall_at_{k}"] for k in (1, 5, 10)]
            shown = " / ".join(f"{value:.3f}" for value in values)
            facts[f"recall@1/5/10, {name} (500 of `stock`, `val`)"] = shown
    return "\n\n".join(
        [
            "# CLIP of the embedded world\n\n"
            "Two towers built with open_clip. A text is brought to its picture, and to the "
            "documents that it should find: another caption of the scene, or another document "
            "about its entity. Several pictures often fit one caption, which bounds recall.",
            facts_table(facts),
            "Retrain: `nox -s train_baselines -- --parts clip --fresh`\n",
        ]
    )


def bank_card(file: Path) -> str:
    """Card of the memory bank."""
    packed = unpack(file)
    facts = {
        "documents": f"{len(packed):,}: {PLAIN:,} scenes of `stock`, then {ABOUT_ONE} of "
        f"each of the tail entities, alone and once on each place, the last "
        f"{len(packed) - SEEN:,} of those that never occur in `train`",
        "a document": f"{packed.codes_NK.shape[1]} image codes, its first caption, a vector of "
        f"{packed.vectors_ND.shape[1]} in half precision",
        "CLIP": f"`{packed.about['clip_sha256']}`",
        "sha256 of the contents": f"`{packed.sha256}`",
        "licence": LICENCE,
    }
    return "\n\n".join(
        [
            "# Memory bank of the embedded world\n\n"
            "What the retriever draws from; no evaluation picture is in it.",
            facts_table(facts),
            "Make it again: `nox -s train_baselines -- --parts bank --fresh`\n",
        ]
    )


CARDS = {
    "transformer": transformer_card,
    "vq": vq_card,
    "features": features_card,
    "clip": clip_card,
}


if __name__ == "__main__":
    from cm3leon.reports import called, guarded

    sys.exit(guarded(lambda: called(main)))
