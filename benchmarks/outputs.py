"""Score outputs that others made: captions, answers, a judge's scores; with intervals and a rival.

    nox -s outputs -- --kind captions --results captions.json --references captions_val2014.json
    nox -s outputs -- --kind vqa --results answers.json --references annotations.json
    nox -s outputs -- --kind judge --results scores.jsonl --beside others.jsonl

captions: MS-COCO's results file, a list of {"image_id", "caption"}, against an annotations file
(CIDEr-D, BLEU-4, ROUGE-L); vqa: VQA's, a list of {"question_id", "answer"} (VQA accuracy, in all
and by type of answer). judge: {"id", "score"}, a JSON list or one object a line; a score that is
null is a refusal, a text that is no number was not readable. Both are counted and stand in the
record, and beside the mean of what was judged stands the mean with each of them at `--lowest`.
As the official scripts do, what is scored is what the results hold; a result of an image or
question that the references lack is refused. `--beside` are another system's results: paired on
what both answered, with a bootstrap's p.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

from benchmarks.harness import core
from cm3leon.errors import UserError

KINDS = {"captions": ("cider", "image_id"), "vqa": ("vqa_accuracy", "question_id"),
         "judge": ("judged", "id")}  # fmt: skip


@dataclass(frozen=True)
class Options:
    """Scores of outputs made elsewhere."""

    results: Path
    """what the system said: JSON, or JSON lines of a judge"""
    kind: Literal["captions", "vqa", "judge"] = "captions"
    """what it is"""
    references: Path | None = None
    """of captions and vqa: the annotations file"""
    beside: Path | None = None
    """another system's results, of the same kind"""
    name: str | None = None
    """of the system in the record; left out: that of the results file"""
    lowest: float = 0.0
    """of a judge: the end of the scale at which refusals stand beside the mean"""
    into: Path = core.RESULTS
    """where the record goes"""
    reports: Path = core.OUT
    """where the table goes"""

    def __post_init__(self):
        if self.kind == "judge" and self.references is not None:
            raise UserError("a judge's scores need no --references; leave them out")
        if self.kind != "judge" and self.references is None:
            raise UserError(f"--kind {self.kind} needs --references, the annotations file")
        if not math.isfinite(self.lowest):
            raise UserError(f"lowest must be finite, got {self.lowest}")


@dataclass(frozen=True)
class Given:
    """The system of a record: a file of outputs."""

    name: str
    config: dict
    weights_sha256: None = None


@dataclass
class Scored:
    """Numbers of single outputs by measure, id -> value; counts; `corpus` of all together."""

    each: dict[str, dict] = field(default_factory=dict)
    corpus: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    unasked: int = 0


def read_results(path: Path, kind: str) -> dict:
    """Id -> caption, answer or score. Raises UserError for another form and an id that repeats."""
    from cm3leon.files import open_file, parse_json

    _, key = KINDS[kind]
    value = {"captions": "caption", "vqa": "answer", "judge": "score"}[kind]
    with open_file(path) as file:
        data = file.read()
    if kind == "judge" and not data.lstrip().startswith(b"["):
        lines = [line for line in data.split(b"\n") if line.strip()]
        rows = [parse_json(line, f"{path} line {n}") for n, line in enumerate(lines, 1)]
    else:
        rows = parse_json(data, path)
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{path} holds no list of results")
    found = {}
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or key not in row or value not in row:
            raise UserError(f"{path}: result {number} needs {key!r} and {value!r}, got {row!r:.60}")
        name = row[key]
        if not isinstance(name, int | str) or name in found:
            raise UserError(f"{path}: {key} {name!r} stands twice, or is none")
        if kind != "judge" and not isinstance(row[value], str):
            raise UserError(f"{path}: {value} of {key} {name!r} must be a text")
        found[name] = row[value]
    return found


def read_references(path: Path, kind: str) -> dict:
    """Id -> reference captions, or (humans' answers, type of answer)."""
    from cm3leon.checkpoint import read_json
    from cm3leon.data.coco import field_of, objects_of

    _, key = KINDS[kind]
    found: dict = {}
    for one in objects_of(read_json(path), "annotations", path, f"an annotations file of {kind}"):
        name = field_of(one, key, int, "an annotation", path)
        if kind == "captions":
            caption = field_of(one, "caption", str, f"an annotation of image {name}", path)
            found.setdefault(name, []).append(caption)
        else:
            answers = objects_of(one, "answers", path, f"question {name} of VQA")
            humans = [field_of(each, "answer", str, f"question {name}", path) for each in answers]
            found[name] = humans, str(one.get("answer_type", "other"))
    return found


def scored(options: Options, path: Path) -> Scored:
    """All numbers of one results file."""
    results = read_results(path, options.kind)
    if options.kind == "judge":
        return _judged(results, options.lowest)
    references = read_references(options.references, options.kind)
    key = KINDS[options.kind][1]
    for name in results:
        if name not in references:
            raise UserError(f"{path} answers {key} {name!r}, which {options.references} lacks")
    found = (_captions if options.kind == "captions" else _answers)(results, references)
    found.unasked = len(references) - len(results)
    return found


def _captions(results: Mapping, references: Mapping) -> Scored:
    from cm3leon.evaluation.text.captions import bleu, cider_d, rouge_l, tokens

    names = list(results)
    candidates = [tokens(results[name]) for name in names]
    own = [[tokens(one) for one in references[name]] for name in names]
    numbers = {"cider": cider_d(candidates, own), "rouge_l": rouge_l(candidates, own)}
    each = {
        name: dict(zip(names, map(float, found), strict=True)) for name, found in numbers.items()
    }
    return Scored(each, {"bleu4": bleu(candidates, own)[0][3]})


def _answers(results: Mapping, references: Mapping) -> Scored:
    from cm3leon.evaluation.tasks.vqa_accuracy import vqa_accuracy

    each: dict[str, dict] = {"vqa_accuracy": {}}
    for name, answer in results.items():
        humans, kind = references[name]
        value = vqa_accuracy(answer, humans)
        each["vqa_accuracy"][name] = value
        each.setdefault(f"{kind.replace('/', '-')}.vqa_accuracy", {})[name] = value
    return Scored(each)


def _judged(results: Mapping, lowest: float) -> Scored:
    found = Scored({"judged": {}, "with_failures.judged": {}}, {}, {"refused": 0, "unparsed": 0})
    for name, score in results.items():
        value = as_number(score)
        if value is not None:
            found.each["judged"][name] = value
        else:
            found.counts["refused" if score is None else "unparsed"] += 1
        found.each["with_failures.judged"][name] = lowest if value is None else value
    if not found.each["judged"]:
        raise UserError(f"no score is readable: {len(results)} refused or not parsed")
    return found


def as_number(score) -> float | None:
    """A judge's score, also as a text; None for what is no finite number."""
    if isinstance(score, bool) or not isinstance(score, int | float | str):
        return None
    try:
        value = float(score)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def measure(options: Options, system, protocol: dict, phases) -> core.Measurement:
    """Every number with its interval, and the paired difference from another system."""
    import numpy as np

    from cm3leon.evaluation.statistics.intervals import bootstrap_interval
    from cm3leon.evaluation.statistics.significance import paired_difference

    with phases("score"):
        ours = scored(options, options.results)
        theirs = None if options.beside is None else scored(options, options.beside)
    extra: dict = {name: float(value) for name, value in {**ours.corpus, **ours.counts}.items()}
    for name, values in ours.each.items():
        numbers = np.array(list(values.values()))
        ends = bootstrap_interval(numbers) if len(numbers) > 1 else (numbers[0],) * 2
        extra[name] = (float(numbers.mean()), *ends)
    warnings = []
    if theirs is not None:
        other = options.beside.stem
        for name in ours.each.keys() & theirs.each.keys():
            one, two = ours.each[name], theirs.each[name]
            both = [key for key in one if key in two]
            if len(both) < 2:
                raise UserError(f"{options.results} and {options.beside} share {len(both)} results")
            value, low, high, p = paired_difference(
                [one[key] for key in both], [two[key] for key in both]
            )
            extra[f"{name}_minus_{other}"] = (value, low, high)
            apart = len(one) + len(two) - 2 * len(both)
            warnings.append(f"{name} less that of {other}: p {p:.3g} on {len(both):,} in common")
            warnings += [f"{name}: {apart:,} results are of one system alone"] * bool(apart)
    if ours.unasked:
        warnings.append(f"{ours.unasked:,} references have no result and are not scored")
    failures = {name: count for name, count in ours.counts.items() if count}
    warnings += [f"{count:,} {name}" for name, count in failures.items()]
    main = KINDS[options.kind][0]
    value, low, high = extra[main]
    return core.Measurement(
        value=value,
        n=len(ours.each[main]),
        interval=core.Interval(low, high, 0.95, "bootstrap of the outputs"),
        extra=extra,
        warnings=warnings,
    )


BENCH = core.Bench("outputs", 1, "score", "higher", protocol={}, measure=measure)


def outputs(options: Options) -> tuple[dict, Path]:
    """Measure and save: (record, its path)."""
    from cm3leon.files import sha256_file

    files = {"results": options.results, "references": options.references, "beside": options.beside}
    digests = {name: sha256_file(path) for name, path in files.items() if path is not None}
    system = Given(options.name or options.results.stem, {"results_sha256": digests.pop("results")})
    protocol = {"kind": options.kind, "lowest": options.lowest} | digests
    bench = replace(BENCH, unit=KINDS[options.kind][0], measure=partial(measure, options))
    return core.run(bench, system, protocol, options.into)


def report(options: Options, record: dict) -> None:
    """The table."""
    from cm3leon.reports.benches.tasks import outputs_table
    from cm3leon.reports.tables import write_all

    table = outputs_table(record)
    print(f"\n{table.to_text()}")
    write_all(table, core.report_folder(options.reports, "outputs"), "outputs")


main: Callable = core.command(Options, "outputs", outputs, report)


if __name__ == "__main__":
    sys.exit(main())
