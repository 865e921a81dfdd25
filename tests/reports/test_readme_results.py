"""The README's results block says what the newest committed records say."""

import json
import subprocess
from pathlib import Path

import pytest

from cm3leon.reports import newest
from cm3leon.reports.readme import MARKS, README, block, headline, rewritten


def committed_records() -> list[dict]:
    """Records git tracks: a reader's own runs do not change the README."""
    root = Path(README).parent
    listed = subprocess.run(
        ["git", "-C", str(root), "ls-files", "results/fid_coco"], capture_output=True, text=True
    )
    if listed.returncode or not listed.stdout.strip():
        pytest.skip("no git checkout with records")
    records = [json.loads((root / name).read_text()) for name in listed.stdout.split()]
    return sorted(records, key=lambda record: record["date"])


def test_the_block_is_what_the_records_say():
    inner = README.read_text(encoding="utf-8").split(MARKS[0], 1)[1].split(MARKS[1], 1)[0]
    assert inner.strip() == block(headline(newest(committed_records())))


def test_only_what_stands_between_the_marks_changes():
    text = f"before {MARKS[0]} old {MARKS[1]} after"
    assert rewritten(text, "new") == f"before {MARKS[0]}\nnew\n{MARKS[1]} after"
