"""The mutation run: what it changes, and what it says of tests whose gaps are known."""

import ast
import importlib
import json
import time

import numpy as np
import pytest

from benchmarks import mutants
from benchmarks.harness import core
from benchmarks.verify.mutations import SYMMETRIC, applied, mutations_of, place_of
from benchmarks.verify.planted import EQUIVALENT, PLANTED
from cm3leon.errors import UserError

MODULE = '''
"""A module."""

LIMIT = 10


def clipped(value: float, most: float = LIMIT) -> float:
    """At most `most`."""
    if value > most:
        return most
    return value


class Box:
    def area(self, wide, high):
        if wide < 0:
            raise ValueError(f"{wide + 1} < 0")
        return wide * high


def forever(count):
    while count > 0:
        count -= 1
    return count


def unseen(x):
    return x + 1
'''
TESTS = """
from pkg.thing import LIMIT, Box, clipped, forever

def test_clipped():
    assert clipped(3.0) == 3.0 and clipped(30.0) == 10 and LIMIT == 10

def test_area():
    assert Box().area(2, 3) == 6

def test_forever():
    assert forever(3) == 0
"""
PATH = "pkg/thing.py"


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("project") / "root"
    files = {"pkg/__init__.py": "", PATH: MODULE, "tests/test_thing.py": TESTS}
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def change(before: str, after: str):
    found = [one for one in mutations_of(MODULE) if (one.before, one.after) == (before, after)]
    assert len(found) == 1, (before, after)
    return found[0]


KNOWN = [  # change, what comes of it
    (("value > most", "(value >= most)"), "survived"),  # the same function
    (("value > most", "(value <= most)"), "killed"),
    (("wide * high", "(wide / high)"), "killed"),
    (("wide < 0", "(wide <= 0)"), "survived"),  # no test asks
    (('raise ValueError(f"{wide + 1} < 0")', "pass"), "unreached"),
    (("x + 1", "(x - 1)"), "unreached"),
    (("10", "11"), "killed"),  # a constant, imported by name
    (("count -= 1", "pass"), "timeout"),
]


def test_known_gaps_are_found_and_nothing_is_written(tree, tmp_path, monkeypatch):
    monkeypatch.setattr(mutants, "SPARE_S", 1.0)
    before = {path: path.read_text() for path in tree.rglob("*") if path.is_file()}
    changes = [change(*pair) for pair, _ in KNOWN]
    found = list(mutants.tried({PATH: changes}, tmp_path, root=tree))
    assert [one.outcome for one in found] == [outcome for _, outcome in KNOWN]
    assert found[1].by == "tests/test_thing.py::test_clipped"
    assert {path: path.read_text() for path in tree.rglob("*") if path.is_file()} == before

    measured = mutants.measured(found, True)
    assert (measured.value, measured.n) == (4 / 8, 8)
    assert measured.extra["killed.thing"][0] == 4 / 8
    assert len(measured.warnings) == 4 and "pkg/thing.py:9 " in measured.warnings[0]
    with pytest.raises(core.NothingMeasured, match="goes on"):
        mutants.measured(found, False)

    # What was tried is not tried again; after its end nothing new is.
    monkeypatch.setattr(mutants.Subjects, "run", None)
    assert list(mutants.tried({PATH: changes}, tmp_path, root=tree)) == found
    lines = (tmp_path / "tried.jsonl").read_text().splitlines(True)
    lines[3] = lines[3].replace("survived", "killed")  # another outcome under the old digest
    assert '"killed"' in lines[3]
    (tmp_path / "tried.jsonl").write_text("".join(lines[:4]) + '{"torn')
    (kept,) = tmp_path.glob("lines-*.json")
    kept.write_text(kept.read_text().replace("test_clipped", "test_clipper"))
    subjects = mutants.Subjects(tree, [PATH], tmp_path)
    subjects._start()
    assert subjects.reaching(PATH, changes[1])[0] == ["tests/test_thing.py::test_clipped"]
    subjects.close()
    some = list(mutants.tried({PATH: changes}, tmp_path, time.monotonic() - 1, tree))
    assert some == found[:3]


@pytest.mark.parametrize(
    ("module", "name"), [(path, name) for path, names in SYMMETRIC.items() for name in names]
)
def test_arguments_that_are_not_swapped_may_stand_either_way(module, name):
    a, b = np.random.default_rng(0).standard_normal((2, 9, 3))
    function = getattr(importlib.import_module(module), name)
    np.testing.assert_allclose(function(a, b), function(b, a), rtol=1e-12)
    assert not [one for one in mutations_of(f"x = {name}(a, b)") if "swapped" in one.kind]
    assert [one for one in mutations_of("x = other(a, b)") if "swapped" in one.kind]


def test_keys_follow_the_content(tree, tmp_path):
    subjects = mutants.Subjects(tree, [PATH], tmp_path)
    first, second = (change(*KNOWN[place][0]) for place in (0, 1))
    key = subjects.key(PATH, first)
    assert key != subjects.key(PATH, second)
    test = tree / "tests" / "test_thing.py"
    try:
        test.write_text(TESTS + "\n# more\n")
        assert subjects.key(PATH, first) != key
    finally:
        test.write_text(TESTS)
    assert subjects.key(PATH, first) == key


SOURCES = sorted({path for paths in mutants.MODULES.values() for path in paths})


@pytest.mark.parametrize(
    "path", ["cm3leon/evaluation/metrics/kid.py", "cm3leon/evaluation/metrics/cmmd.py"]
)
def test_every_change_is_one_that_parses_and_stands_where_it_says(path):
    source = (mutants.ROOT / path).read_text()
    found = mutations_of(source)
    assert len({(one.start, one.stop, one.after) for one in found}) == len(found) > 20
    assert len({one.name for one in found}) == len(found)
    tree = ast.dump(ast.parse(source))
    for one in found:
        text = applied(source, one)
        assert ast.dump(ast.parse(text)) != tree
        assert text[: one.start] == source[: one.start] and one.lines[0] <= one.line
        assert place_of(source, one).function == one.function


def test_words_annotations_and_tolerances_are_left_alone():
    text = "def f(x: int | None = None, *, y=1e-9) -> int | None:\n"
    text += '    """Says 1."""\n    raise ValueError(f"{x + 1} is 2" + str(3))\n'
    assert [(one.kind, one.after) for one in mutations_of(text)] == [("statement dropped", "pass")]


@pytest.mark.parametrize("seed, count", [(0, 1), (0, 7), (5, 7), (1, 1000)])
def test_a_longer_run_holds_the_shorter(seed, count):
    first = mutants.drawn(MODULE, PATH, count, seed)
    assert len(first) == min(count, len(mutations_of(MODULE)))
    assert mutants.drawn(MODULE, PATH, count + 5, seed)[:count] == first


def test_what_cannot_be_seen_is_not_drawn(monkeypatch):
    every = mutations_of(MODULE)
    monkeypatch.setitem(EQUIVALENT, PATH, {every[0].name: "a reason"})
    assert set(mutants.drawn(MODULE, PATH, 1000, 0)) == set(every[1:])


def test_lists_name_what_is_there():
    for fault in PLANTED:
        place = mutants.as_change(fault)
        source = (mutants.ROOT / fault.path).read_text()
        ast.parse(applied(source, place))
        for name in fault.tests:
            assert (mutants.ROOT / "tests" / name).is_file(), fault.name
    assert len({fault.name for fault in PLANTED}) == len(PLANTED) == 18
    for path, known in EQUIVALENT.items():
        names = {one.name for one in mutations_of((mutants.ROOT / path).read_text())}
        assert known.keys() <= names and all(known.values())
    for path in SOURCES:
        named = mutants.TESTS.get(path, ())
        assert mutants.related(mutants.ROOT, path)[: len(named)] == [
            f"tests/{one}" for one in named
        ]


def test_planted_faults_are_tried_all_or_by_name(monkeypatch, capsys):
    """With a stand-in for the tests: one fault lives."""

    def tried(asked, cache, end, tests):
        for path, changes in asked.items():
            for change in changes:
                lives = change.before.startswith("REDRAWS")
                yield mutants.Tried(path, change, "survived" if lives else "killed", "a test")

    monkeypatch.setattr(mutants, "tried", tried)
    assert mutants.main(["--planted"]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 18 and sum("survived" in line for line in lines) == 1
    assert mutants.main(["--planted", "--faults", "top-p-boundary", "kid-subset-of-all"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_bad_input(capsys, tmp_path):
    assert mutants.main(["--modules", "nonsense"]) == 2
    assert "sampling" in capsys.readouterr().err
    assert mutants.main(["--planted", "--faults", "nonsense"]) == 2
    assert "top-p-boundary" in capsys.readouterr().err
    with pytest.raises(UserError, match="write one"):
        mutants.related(mutants.ROOT, "pkg/nowhere.py")
    assert json.loads(json.dumps(mutants.chosen(["logits", "sampling"]))) == [
        "cm3leon/decoding/sampling.py"
    ]
