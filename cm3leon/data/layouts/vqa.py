"""Questions and answers about pictures: VQAv2 and OKVQA (one layout), VizWiz.

VQAv2, OKVQA: `*OpenEnded*_<split>_questions.json` and `*mscoco_<split>_annotations.json`, pictures
of MS-COCO in `<split>/`. VizWiz: `<split>.json`, also in `Annotations/`, pictures in `<split>/`. An
answer is the one given most often, the first of equals; VizWiz' "unanswerable" is one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path, PurePosixPath

from cm3leon.checkpoint import read_json
from cm3leon.data.coco import field_of, folders_of, objects_of, place_of
from cm3leon.data.examples import Examples, Shown
from cm3leon.data.sources import Skipped
from cm3leon.errors import UserError
from cm3leon.files import parse_json

WHAT = "a file of VQA's layout"
ENDINGS = (".jpg", ".png")


def vqa_splits(root: Path) -> dict[str, Path]:
    """Split -> its questions file, of VQAv2's layout."""
    found = {}
    for path in sorted(root.glob("*OpenEnded*_questions.json")):
        found[path.stem.removesuffix("_questions").rpartition("_")[2]] = path
    return found


def vqa(root: str | Path, split: str | None = None) -> Examples:
    """The questions of a split with their answers, by picture.

    Raises UserError for a split that is not there or has no answers, for torn or misbuilt JSON, and
    for an answer to no question. What is skipped: a blank question, one without an answer.
    """
    root = Path(root)
    split, path = _chosen(vqa_splits(root), split, root)
    answers = sorted(root.glob(f"*mscoco_{split}_annotations.json"))
    if not answers:
        raise UserError(
            f"{root} has no *mscoco_{split}_annotations.json: no answers to {path.name}"
        )
    asked = {}
    for one in objects_of(read_json(path), "questions", path, WHAT):
        number = field_of(one, "question_id", int, "a question", path)
        image_id = field_of(one, "image_id", int, f"question {number}", path)
        asked[number] = (image_id, field_of(one, "question", str, f"question {number}", path))
    found, lost = defaultdict(list), []
    for one in objects_of(read_json(answers[0]), "annotations", answers[0], WHAT):
        number = field_of(one, "question_id", int, "an annotation", answers[0])
        if number not in asked:
            raise UserError(f"{answers[0]} answers question {number}, which {path.name} lacks")
        image_id, question = asked.pop(number)
        answer = one.get("multiple_choice_answer") or commonest(one, answers[0], number)
        _take(found[image_id], lost, f"question {number}", question, answer)
    lost += [Skipped(f"question {number}", "has no answer") for number in sorted(asked)]
    folders = folders_of(root, split, path)
    parts = [
        Shown(
            f"vqa-{split}-{image_id}", {"image": _picture(split, image_id, folders)}, tuple(texts)
        )
        for image_id, texts in sorted(found.items())
        if texts
    ]
    return Examples("vqa", parts, lost, {"split": split})


def vizwiz_splits(root: Path) -> dict[str, Path]:
    """Split -> its file, of VizWiz' layout."""
    places = [folder for folder in (root, root / "Annotations", root / "annotations")]
    found = {}
    for place in places:
        for name in ("train", "val", "test"):
            if (place / f"{name}.json").is_file():
                found.setdefault(name, place / f"{name}.json")
    return found


def vizwiz(root: str | Path, split: str | None = None) -> Examples:
    """As `vqa`, of VizWiz."""
    root = Path(root)
    split, path = _chosen(vizwiz_splits(root), split, root)
    content = parse_json(path.read_bytes(), path)
    records = objects_of({"list": content}, "list", path, "a VizWiz file")
    folders, parts, lost = folders_of(root, split, path), [], []
    for one in records:
        name = field_of(one, "image", str, "a question", path)
        if PurePosixPath(name).name != name:
            raise UserError(f"{path}: image {name!r} lies outside its folder")
        question = field_of(one, "question", str, name, path)
        texts: list[dict] = []
        answer = commonest(one, path, name) if one.get("answers") else ""
        _take(texts, lost, name, question, answer)
        if texts:
            stem = PurePosixPath(name).stem
            parts.append(Shown(f"vizwiz-{stem}", {"image": place_of(name, folders)}, tuple(texts)))
    return Examples("vizwiz", parts, lost, {"split": split})


def commonest(record: dict, path: Path, name) -> str:
    """The answer that most people gave, the first of equals."""
    answers = objects_of(record, "answers", path, WHAT)
    words = [field_of(one, "answer", str, f"an answer of {name}", path) for one in answers]
    return Counter(words).most_common(1)[0][0] if words else ""


def _take(texts: list, lost: list, name: str, question: str, answer: str) -> None:
    """Add a question and its answer, or say what it lacks."""
    if not question.strip():
        lost.append(Skipped(name, "has no text"))
    elif not str(answer).strip():
        lost.append(Skipped(name, "has no answer"))
    else:
        texts.append({"question": " ".join(question.split()), "answer": " ".join(answer.split())})


def _chosen(splits: dict[str, Path], split: str | None, root: Path) -> tuple[str, Path]:
    if not splits:
        raise UserError(f"{root} has no questions of VQAv2, OKVQA or VizWiz")
    if split is None and len(splits) == 1:
        (split,) = splits
    if split not in splits:
        wanted = "several splits" if split is None else f"no split {split!r}"
        raise UserError(f"{root} has {wanted}; name one of {', '.join(splits)}")
    return split, splits[split]


def _picture(split: str, image_id: int, folders: list[Path]) -> Path:
    """Where MS-COCO's picture lies, under any of its names."""
    names = [f"{stem}{ending}" for stem in (f"COCO_{split}_{image_id:012d}", f"{image_id:012d}")
             for ending in ENDINGS]  # fmt: skip
    paths = [place_of(name, folders) for name in names]
    return next((path for path in paths if path.is_file()), paths[0])
