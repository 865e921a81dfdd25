"""The README.md of an exported model: what it is, its id space, how to load it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from cm3leon.config import ModelConfig, VQConfig
from cm3leon.sequence.documents import Vocabulary

HEAD = """---
library_name: transformers
pipeline_tag: text-to-image
tags:
- cm3leon
- opt
- text-to-image
---
"""


@dataclass(frozen=True)
class Result:
    """A number of a `model-index`: what was done, on which data, by which measure."""

    task: str  # a pipeline of Hugging Face's, "text-to-image"
    dataset: str
    split: str
    metric: str
    value: float
    name: str  # of the number, as a reader says it


def header(name: str, pipeline: str, licence: str, results: Sequence[Result]) -> str:
    """The hub's header of a model's card, with its numbers as `model-index` (the form of
    https://github.com/huggingface/hub-docs/blob/main/modelcard.md); texts are quoted as JSON, which
    YAML reads.
    """
    lines = ["---", f"license: {licence}", "library_name: cm3leon", f"pipeline_tag: {pipeline}"]
    lines += ["tags:", "- cm3leon", f"- {pipeline}"]
    if results:
        lines += ["model-index:", f"- name: {json.dumps(name)}", "  results:"]
    for one in results:
        lines += [
            f"  - task: {{type: {one.task}}}",
            f"    dataset: {{type: {json.dumps(one.dataset)}, name: {json.dumps(one.dataset)}, "
            f"split: {json.dumps(one.split)}}}",
            f"    metrics: [{{type: {one.metric}, value: {one.value:.6g}, "
            f"name: {json.dumps(one.name)}}}]",
        ]
    return "\n".join([*lines, "---"])


def card(name: str, model: ModelConfig, vq: VQConfig, extra: dict, sha256: str) -> str:
    """The card in Markdown, with the hub's header; `extra` as the checkpoint has it."""

    vocabulary = Vocabulary.from_config(model.vocabulary)
    facts = {
        "parameters": f"{model.parameters:,}, {'tied' if model.tied else 'untied'} head",
        "network": f"{model.layers} layers x {model.width}, {model.heads} heads, context "
        f"{model.context}; no biases, LayerNorm without parameters, ReLU",
        "pictures": f"{vq.resolution} x {vq.resolution} pixels, {vq.grid**2} tokens of "
        f"{vq.codebook_size} codes",
        "sha256 of the weights before export": f"`{sha256}`",
    }
    if "retrieval" in extra:
        where = "not in this folder" if "bank" in extra else "in `bank/` and `clip/`"
        facts["documents"] = (
            f"trained with retrieved documents before the caption; memory bank and CLIP are {where}"
        )
    table = "\n".join(f"| {key} | {value} |" for key, value in facts.items())
    parts = [
        f"{HEAD}\n# {name}",
        "A CM3Leon (arXiv 2309.02591), exported by `cm3leon export` as an OPT of Hugging Face's "
        "layout.",
        f"| | |\n|---|---|\n{table}",
        ids(vocabulary),
        usage(name),
    ]
    if model.positions != "row":
        parts.append(positions(model).lstrip())
    return "\n\n".join(parts)


def ids(vocabulary: Vocabulary) -> str:
    """The id space as a table."""
    rows = {
        f"0 to {vocabulary.image_start - 1}": "text, byte-level BPE",
        f"{vocabulary.image_start} to {vocabulary.image_end - 1}": "image codes, "
        f"`<image:0>` to `<image:{vocabulary.image_size - 1}>`",
        f"{vocabulary.image_end} to {vocabulary.pad - 1}": "sentinels, "
        f"`<mask:0>` to `<mask:{vocabulary.sentinels - 1}>`",
        f"{vocabulary.pad} to {vocabulary.eom}": "`<pad>` `<eos>` `<break>` `<eom>`",
    }
    if vocabulary.eom + 1 < vocabulary.size:
        rows[f"{vocabulary.eom + 1} to {vocabulary.size - 1}"] = "filler, never used"
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    return f"| ids | what |\n|---|---|\n{table}"


def usage(name: str) -> str:
    """How to load it with either library."""
    return f"""```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
prompt = tokenizer("<eos>a red star<break>", return_tensors="pt")  # image codes come next
logits = model(**prompt).logits
```

transformers computes logits and samples text. To draw pictures, with guidance over two streams and
the image tokenizer in `vq/`: `cm3leon import FOLDER models/{name}`, then
`cm3leon draw "a red star" --system models/{name}`.
"""


def positions(model: ModelConfig) -> str:
    """Which `position_ids` OPT must be given, and what an import makes of a grid."""
    each, text = model.pair_places, model.position_text
    about = f"""
Tokens do not stand at their index in the row, so give `position_ids`: `<eos>` is at 0; token i of
the text of pair p (documents first, from 0) at {each} p + 1 + i, what ends it behind it; code k of
its picture at {text} + {each} p + k, what ends it behind it. Without them only the first text
stands right, and `generate` of transformers cannot draw a picture.
"""
    if model.positions == "grid":
        about += """
The model adds vectors of rows and columns; this folder holds their sums, one vector a place. So
`cm3leon import` gives a model of positions "anchored" with this table, which computes the same.
"""
    return about
