"""The whole way on files of public layouts: encode, tune a few steps, ask, score.

MS-COCO's are real pictures where a copy is at hand; InstructPix2Pix' and VQAv2's are generated.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import outputs
from cm3leon.cli import main as cli
from cm3leon.evaluation.tasks.average_precision import Detection, average_precision, matches
from cm3leon.evaluation.tasks.edge_f1 import edge_f1
from cm3leon.evaluation.tasks.edit_pixels import l1, psnr, squared_error
from cm3leon.evaluation.tasks.oks import oks
from cm3leon.evaluation.tasks.vqa_accuracy import vqa_accuracy
from cm3leon.images import crop_square, read_picture, write_png
from cm3leon.loading import load_system
from cm3leon.world.coco_export import export
from tests.world_model import write_world_model

MINI = Path(__file__).resolve().parents[3] / "shared" / "data" / "coco-mini"
mini = pytest.mark.skipif(not MINI.is_dir(), reason="no copy of coco-mini beside the checkout")
FEW = ("--steps", "2", "--batch", "2", "--warmup", "1", "--precision", "float32")


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Run a command in a folder with an untuned model `base`; what it printed."""
    monkeypatch.chdir(tmp_path)
    write_world_model(tmp_path, "base")

    def run(*arguments) -> str:
        code = cli.main([str(one) for one in arguments])
        said = capsys.readouterr()
        assert code == 0, said.err
        return said.out

    return run


def tune(call, caches: dict) -> None:
    """Encode each (source, task, more options) and tune on all."""
    for name, (source, task, *more) in caches.items():
        call("encode", source, name, "--task", task, "--tokenizers", ".", *more)
    call("tune", "base", *caches, "--out", "tuned", "--hold-out", 1, "--device", "cpu", *FEW)


def test_generated_edits_and_questions(call, tmp_path):
    export(tmp_path / "world", ("captions", "edits", "vqa"), "coco", "test", 3, 64)
    tune(call, {"edits": ("world/edits", "edit"), "answers": ("world", "answer")})
    system = load_system("tuned")
    assert set(system.tasks) == {"edit", "answer"}
    folder = min(path for path in (tmp_path / "world" / "edits").iterdir() if path.is_dir())
    before, after = sorted(folder.glob("*.jpg")) or sorted(folder.glob("*.png"))
    call("edit", before, "make it red", "--system", "tuned", "--out", "edited.png")
    drawn = read_picture("edited.png")
    wanted = crop_square(read_picture(after), 64)
    assert 0 < l1(drawn, wanted) < 1 and np.isfinite(psnr(*squared_error(drawn, wanted)))
    said = call("answer", before, "how many stars are there?", "--system", "tuned", "--tokens", 4)
    assert vqa_accuracy(said, [said.strip()] * 10) == 1
    results = tmp_path / "results.json"
    (questions,) = (tmp_path / "world").glob("*annotations.json")
    numbers = [one["question_id"] for one in _json(questions)["annotations"][:4]]
    asked = np.stack([crop_square(read_picture(before), 64)] * len(numbers))
    answers = system.answer(asked, ["how many?"] * len(numbers), most=3)
    rows = [{"question_id": k, "answer": one} for k, one in zip(numbers, answers, strict=True)]
    results.write_text(json.dumps(rows))
    options = ("--kind", "vqa", "--results", results, "--references", questions)
    places = ("--into", tmp_path / "records", "--reports", tmp_path / "out")
    assert outputs.main(list(map(str, (*options, *places)))) == 0


@mini
def test_captions_boxes_and_edges_of_coco(call, tmp_path):
    pytest.importorskip("cv2", reason="edges of photographs are found by OpenCV")
    place = f"{MINI}:val2017"
    tune(call, {"captions": (place, "caption"), "edges": (place, "edges")})
    photo = min((MINI / "val2017").iterdir())
    assert call("caption", photo, "--system", "tuned", "--tokens", 5).endswith("\n")
    _draw_after_edges(call, photo)


@mini
def test_captions_and_boxes_of_coco(call):
    place = f"{MINI}:val2017"
    grounded = ((place, "grounded"), (place, "grounded", "--annotations", "person_keypoints"))
    tune(call, {"captions": (place, "caption"), "boxes": grounded[0], "people": grounded[1]})
    photo = min((MINI / "val2017").iterdir())
    assert call("caption", photo, "--system", "tuned", "--tokens", 5).endswith("\n")
    call("draw", "a man", "--box", "person: 4 8 40 60", "--system", "tuned", "--out", "drawn.png")
    assert read_picture("drawn.png").shape == (64, 64, 3)
    true = [("person", (4, 8, 40, 60))]  # a detector's box, by path in the coco tier
    found = [Detection("person", (5, 8, 40, 58), 0.9)]
    assert average_precision([matches(found, true)])[1] == 1
    person = next(one for one in _json(MINI / "annotations" / "person_keypoints_val2017.json")[
        "annotations"] if one["num_keypoints"] > 4)  # fmt: skip
    points = np.array(person["keypoints"], float).reshape(17, 3)
    assert oks(points, points[:, :2], person["area"]) == 1
    assert oks(points, points[:, :2] + 20, person["area"]) < 1


def _draw_after_edges(call, photo) -> None:
    from cm3leon.data.layouts.conditions import canny

    shown = canny(crop_square(read_picture(photo), 64))
    write_png("edges.png", shown)
    options = ("--condition", "edges.png", "--kind", "edges", "--system", "tuned")
    call("draw", "a street", *options, "--out", "drawn.png")
    again = canny(read_picture("drawn.png"))
    assert 0 <= edge_f1(shown[..., 0] > 0, again[..., 0] > 0) <= 1


def _json(path):
    return json.loads(Path(path).read_text())
