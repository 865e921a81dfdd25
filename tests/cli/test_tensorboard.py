"""A training's log as scalars: every number once, whenever lines come; TensorBoard's own files."""

from __future__ import annotations

import json

import pytest

from cm3leon.cli import tensorboard
from cm3leon.cli.tensorboard import followed, following
from cm3leon.errors import UserError

RECORDS = [{"step": 1, "loss": 6.5, "held_out_loss": 7.0}, {"step": 5, "loss": 5.5, "note": "x"}]


class Scalars:
    """Stands in for a SummaryWriter."""

    def __init__(self):
        self.said, self.closed = [], False

    def add_scalar(self, name, value, step):
        self.said.append((name, value, step))

    def flush(self):
        pass

    def close(self):
        self.closed = True


def append(path, *records, end="\n"):
    with open(path, "a", encoding="utf-8") as file:
        file.write("\n".join(json.dumps(one) for one in records) + end)


def test_every_number_is_given_once(tmp_path, monkeypatch):
    monkeypatch.setattr(tensorboard, "EVERY_S", 0.01)
    out, log = Scalars(), tmp_path / "log.jsonl"
    append(log, RECORDS[0])
    with following(log, out):
        append(log, RECORDS[1])
    assert out.said == [("loss", 6.5, 1), ("held_out_loss", 7.0, 1), ("loss", 5.5, 5)]
    assert out.closed


def test_a_line_that_is_being_written_is_waited_for_and_a_shorter_log_is_read_anew(tmp_path):
    out, log = Scalars(), tmp_path / "log.jsonl"
    lines = tensorboard._Lines(log, out)
    lines.take()
    log.write_text(json.dumps(RECORDS[0])[:9])
    lines.take()
    assert out.said == []
    log.unlink()
    append(log, *RECORDS)
    lines.take()
    log.write_text('{"step": 2, "loss": 1.5}\nnot JSON\n')  # a run that went on from a state
    lines.take()
    assert out.said[-1] == ("loss", 1.5, 2) and len(out.said) == 4


def test_event_files_are_tensorboards(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for _ in range(2):  # a second process writes in place of the first
        (tmp_path / "log.jsonl").unlink(missing_ok=True)
        with followed(tmp_path, True):
            append(tmp_path / "log.jsonl", *RECORDS)
    (_file,) = (tmp_path / "tensorboard").glob("events.out.tfevents.*")
    read = EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    assert [(one.step, one.value) for one in read.Scalars("loss")] == [(1, 6.5), (5, 5.5)]


def test_without_tensorboard_it_is_one_line_and_without_the_option_nothing(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match=r"cm3leon\[tensorboard\]"):
        followed(tmp_path, True)
    with followed(tmp_path, False):
        assert list(tmp_path.iterdir()) == []
