"""The house counted and drawn, from its source alone: nox -s house

    python -m tests.house.house      prints the counts, writes docs/house.svg
    python -m tests.house.house --check      exit code 1 where one or a limit does not hold

Modules a folder, lengths of functions, public functions of many arguments, source lines, files to
touch for an addition as docs/how-to.md works it through; and which folder imports which.
"""

from __future__ import annotations

import ast
import functools
import itertools
import re
import statistics
import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path

from cm3leon.reports import called, guarded

ROOT = Path(__file__).resolve().parents[2]
OURS = ("cm3leon", "benchmarks", "baselines")
DRAWING = ROOT / "docs" / "house.svg"
HOW_TO = ROOT / "docs" / "how-to.md"
# Single files of cm3leon that stand above its folders; the others stand below them all.
DOORS = {"pipeline", "loading", "clip", "__main__"}

NO_MODULES = {"__init__", "__main__"}

# Limits.
MODULES = 14  # of a folder
MEDIAN = 10  # lines of a function
ARGUMENTS = 6  # of a public function, `self` apart
TOUCHED = {"A metric": 2, "A decoding strategy": 4, "A task": 3, "A system": 1, "A benchmark": 2}


# ---------------------------------------------------------------- source


@functools.cache
def sources(package: str) -> list[Path]:
    """Every Python file of a package."""
    return sorted((ROOT / package).rglob("*.py"))


@functools.cache
def parsed(path: Path) -> ast.Module:
    """A file's syntax tree."""
    return ast.parse(path.read_text(encoding="utf-8"))


def module_of(path: Path) -> str:
    """Dotted name inside cm3leon: `clip`, `world.edits`."""
    return ".".join(path.relative_to(ROOT / "cm3leon").with_suffix("").parts)


@functools.cache
def imports(path: Path, late: bool = True) -> set[str]:
    """Dotted names of the modules a file imports; without `late` those at its top only."""
    tops = [node for node in parsed(path).body if not _typing_only(node)]
    nodes = [inner for node in tops for inner in (ast.walk(node) if late else [node])]
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:  # `from cm3leon import seeds` imports a module
                inner = ROOT.joinpath(*node.module.split("."), f"{alias.name}.py")
                found.add(f"{node.module}.{alias.name}" if inner.exists() else node.module)
    return found


def _typing_only(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and getattr(node.test, "id", None) == "TYPE_CHECKING"


def functions(
    tree: ast.AST, inside: str = "", public: bool = True
) -> Iterator[tuple[str, ast.FunctionDef, bool]]:
    """(name, function, whether it is public) of all functions, methods and inner functions."""
    for node in ast.iter_child_nodes(tree):
        name = getattr(node, "name", "")
        known = public and (not name.startswith("_") or name == "__init__")
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield inside + name, node, known
            yield from functions(node, f"{inside}{name}.", False)
        else:
            yield from functions(node, inside + (f"{name}." if name else ""), known)


def arguments(function: ast.FunctionDef) -> int:
    """How many names a caller may give, `self` and stars apart."""
    every = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return sum(one.arg not in ("self", "cls") for one in every)


# ---------------------------------------------------------------- counts


def modules_a_folder() -> dict[str, int]:
    """Folder -> how many modules lie in it."""
    found: dict[str, int] = {}
    for path in (path for package in OURS for path in sources(package)):
        folder = path.parent.relative_to(ROOT).as_posix()
        found[folder] = found.get(folder, 0) + (path.stem not in NO_MODULES)
    return found


def lengths() -> list[int]:
    """Lines of every function."""
    trees = (parsed(path) for package in OURS for path in sources(package))
    return [one.end_lineno - one.lineno + 1 for tree in trees for _, one, _ in functions(tree)]


def many_arguments() -> dict[str, int]:
    """`file: function` -> arguments, of public functions with more than the limit."""
    return {
        f"{path.relative_to(ROOT).as_posix()}: {name}": arguments(function)
        for package in OURS
        for path in sources(package)
        for name, function, public in functions(parsed(path))
        if public and arguments(function) > ARGUMENTS
    }


def source_lines() -> dict[str, int]:
    """Package, and folder of cm3leon -> lines of its Python files."""
    found: dict[str, int] = {}
    for path in (path for package in OURS for path in sources(package)):
        parts = path.relative_to(ROOT).parts
        names = {parts[0], "/".join(parts[:2]) if len(parts) > 2 else parts[0]}
        for name in names:
            found[name] = found.get(name, 0) + len(path.read_text("utf-8").splitlines())
    return found


def files_touched() -> dict[str, int]:
    """Kind of addition -> files that its section of docs/how-to.md touches; none without it."""
    if not HOW_TO.is_file():
        return {}
    found = {}
    for section in re.split(r"^## ", HOW_TO.read_text("utf-8"), flags=re.MULTILINE)[1:]:
        kind = section.partition(":")[0].strip()
        files = re.findall(r"^(?:New file|In) `([^`]+)`", section, re.MULTILINE)
        found[kind] = len(set(files))
    return found


# ---------------------------------------------------------------- arrows


@dataclass(frozen=True)
class Room:
    """A folder, or a single file above the folders: what it is, what it imports."""

    name: str
    about: str
    needs: frozenset[str]


@functools.cache
def rooms() -> dict[str, Room]:
    """Name -> room of cm3leon, and the two packages above it."""
    files: dict[str, list[Path]] = {}
    for path in (path for package in OURS for path in sources(package)):
        files.setdefault(_room(path), []).append(path)
    below = files.pop("")
    about = ", ".join(path.stem for path in below if path.stem != "__init__")
    found = {"single files": Room("single files", about, frozenset())}
    for name, paths in files.items():
        first = min(paths, key=lambda path: (path.stem != "__init__", len(path.parts)))
        docstring = _about(name, ast.get_docstring(parsed(first)) or "")
        needs = {_room_of(one) for path in paths for one in imports(path)} & files.keys()
        found[name] = Room(name, docstring, frozenset(needs - {name}))
    return found


def _about(name: str, docstring: str) -> str:
    """First sentence of a docstring, without the room's own name before it."""
    sentence = re.split(r"[.;]\s", " ".join(docstring.split()) + " ")[0]
    sentence = re.sub(r" \([^)]*$|`", "", sentence)
    own = re.match(rf"{name}( \([^)]*\))?: ", sentence, re.IGNORECASE)
    return sentence[own.end() :] if own else sentence


def _room(path: Path) -> str:
    return _room_of(".".join(path.relative_to(ROOT).with_suffix("").parts))


def _room_of(module: str) -> str:
    """`cm3leon.data.coco` -> `data`; "" for a single file below the folders."""
    package, *parts = module.split(".")
    if package != "cm3leon" or not parts:
        return package if package != "cm3leon" else ""
    folder = (ROOT / "cm3leon" / parts[0]).is_dir()
    return parts[0] if folder or parts[0] in DOORS else ""


def needed(every: Mapping[str, Room]) -> dict[str, set[str]]:
    """Room -> what it imports, without what another of these imports already brings along."""

    def below(name: str) -> set[str]:
        direct = every[name].needs
        return direct.union(*(below(one) for one in direct))

    return {
        name: {
            one for one in room.needs if not any(one in below(other) for other in room.needs)
        }
        for name, room in every.items()
    }  # fmt: skip


# ---------------------------------------------------------------- drawing

WIDE, HIGH, GAP_X, GAP_Y, EDGE = 200, 74, 26, 36, 24  # pixels: a box, between boxes, around
THIN = 14  # of an arrow that passes a floor
STYLE = """
text { font-family: system-ui, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2933; }
.name { font-size: 15px; font-weight: 600; } .about { font-size: 10.5px; fill: #3e4c59; }
.box { fill: #ffffff; stroke: #9aa5b1; }
.door { fill: #eaf4fb; stroke: #0072b2; } .outer { fill: #fdf3ea; stroke: #d55e00; }
.home { fill: #f5f7fa; stroke: #cbd2d9; } .arrow { fill: none; stroke: #7b8794; stroke-width: 1.3; }
"""


def floors(every: Mapping[str, Room], arrows: Mapping[str, set[str]]) -> list[list[str]]:
    """Rooms by floor, the lowest first; a room stands right above the highest that it needs."""
    height: dict[str, int] = {}
    ground = 0  # of the packages that are not cm3leon's rooms: above all of those

    def of(name: str) -> int:
        if name not in height:
            height[name] = 1 + max((of(one) for one in arrows[name]), default=-1)
            if name in OURS:
                height[name] = max(height[name], ground)
        return height[name]

    ground = 1 + max(of(name) for name in every if name not in OURS)
    for name in every:
        of(name)
    top = max(height.values())
    rest = [name for name in every if name != "single files"]
    return [[name for name in rest if height[name] == floor] for floor in range(top + 1)]


@functools.cache
def drawing() -> str:
    """The house as SVG: a floor a row, arrows down to what a room needs."""
    every = rooms()
    arrows = needed(every)
    plan, paths = _threaded(floors(every, arrows), arrows)
    _untangled(plan, paths)
    places = _placed(plan)
    width = max(x + (WIDE if box else THIN) / 2 for x, _, box in places.values()) + 2 * EDGE
    ground = max(y for _, y, _ in places.values()) + HIGH + GAP_Y
    parts = [_home(every, places, width, ground)]
    parts += [_arrow([places[one] for one in path]) for path in paths]
    parts += [_box(every[name], *places[name][:2]) for floor in plan for name in floor
              if name in every]  # fmt: skip
    parts.append(_ground(every["single files"], width, ground))
    height = ground + 66 + EDGE
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" height="{height:.0f}" role="img" aria-label="Folders of the '
        f'repository and what each imports">\n<style>{STYLE}</style>\n'
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0.8 L7.4 4 L0 7.2 z" fill="#7b8794"/></marker>'
        f'</defs>\n<rect width="100%" height="100%" fill="#ffffff"/>\n' + "\n".join(parts)
        + "\n</svg>\n"
    )  # fmt: skip


def _threaded(
    plan: list[list[str]], arrows: Mapping[str, set[str]]
) -> tuple[list[list[str]], list[list[str]]]:
    """Floors with a place for every arrow that passes one; and every arrow as its places."""
    plan = [list(floor) for floor in plan]
    height = {name: place for place, floor in enumerate(plan) for name in floor}
    paths = []
    for name in sorted(height):
        for other in sorted(arrows[name] & height.keys()):
            between = list(range(height[name] - 1, height[other], -1))
            passes = [f"{name}>{other}@{floor}" for floor in between]
            for floor, one in zip(between, passes, strict=True):
                plan[floor].append(one)
            paths.append([name, *passes, other])
    return plan, paths


def _untangled(plan: list[list[str]], paths: list[list[str]]) -> None:
    """Order every floor by the middle of its neighbours, up and down, until arrows cross little."""
    pairs = [pair for path in paths for pair in itertools.pairwise(path)]
    above: dict[str, list[str]] = {}
    below: dict[str, list[str]] = {}
    for one, other in pairs:
        below.setdefault(one, []).append(other)
        above.setdefault(other, []).append(one)
    best, fewest = [list(floor) for floor in plan], _crossings(plan, pairs)
    for round_ in range(24):
        near = below if round_ % 2 else above
        for floor in plan if round_ % 2 else reversed(plan):
            place = {name: k / max(1, len(row) - 1) for row in plan for k, name in enumerate(row)}
            middle = {
                name: statistics.fmean(place[one] for one in near.get(name, [name]))
                for name in floor
            }
            floor.sort(key=lambda name, middle=middle: (middle[name], name))
        count = _crossings(plan, pairs)
        if count < fewest:
            best, fewest = [list(floor) for floor in plan], count
    plan[:] = best


def _crossings(plan: list[list[str]], pairs: list[tuple[str, str]]) -> int:
    place = {name: (k, floor) for floor, row in enumerate(plan) for k, name in enumerate(row)}
    ends = [(place[one], place[other]) for one, other in pairs]
    return sum(
        a[1] == c[1] and (a[0] - c[0]) * (b[0] - d[0]) < 0
        for k, (a, b) in enumerate(ends)
        for c, d in ends[:k]
    )


def _placed(plan: list[list[str]]) -> dict[str, tuple[float, float, bool]]:
    """Name -> middle of its box, its top, and whether it is a box; floors are centred."""
    wide = {name: THIN if "@" in name else WIDE for floor in plan for name in floor}
    widths = [sum(wide[name] + GAP_X for name in floor) - GAP_X for floor in plan]
    found = {}
    for floor, row in enumerate(plan):
        x = EDGE * 2 + (max(widths) - widths[floor]) / 2
        y = EDGE + (len(plan) - 1 - floor) * (HIGH + GAP_Y)
        for name in row:
            found[name] = (x + wide[name] / 2, y, "@" not in name)
            x += wide[name] + GAP_X
    return found


def _arrow(places: list[tuple[float, float, bool]]) -> str:
    """From below the first box to above the last, straight past the floors between."""
    (x, y, _), *others = places
    at = y + HIGH
    path = f"M{x:.0f} {at:.0f}"
    for x_next, y_next, box in others:
        bend = (y_next - at) / 2
        path += f" C{x:.0f} {at + bend:.0f} {x_next:.0f} {y_next - bend:.0f} {x_next:.0f} "
        path += f"{y_next - (2 if box else 0):.0f}"
        x, at = x_next, y_next
        if not box:
            at = y_next + HIGH
            path += f" L{x:.0f} {at:.0f}"
    return f'<path class="arrow" d="{path}" marker-end="url(#tip)"/>'


def _box(room: Room, x: float, y: float) -> str:
    kind = "outer" if room.name in OURS else "door" if room.name in DOORS else "box"
    left = x - WIDE / 2
    name = f"{room.name}.py" if room.name in DOORS else f"{room.name}/"
    lines = textwrap.wrap(room.about.rstrip("."), 30, max_lines=3, placeholder=" ...")
    text = "".join(
        f'<text class="about" x="{left + 10:.0f}" y="{y + 37 + 12.5 * k:.1f}">{escape(line)}</text>'
        for k, line in enumerate(lines)
    )
    return (
        f'<g><rect class="{kind}" x="{left:.0f}" y="{y:.0f}" width="{WIDE}" height="{HIGH}" '
        f'rx="7"/><text class="name" x="{left + 10:.0f}" y="{y + 20:.0f}">{name}</text>'
        f"{text}</g>"
    )


def bare(drawn: str) -> str:
    """A drawing without descriptions: rooms, their places and arrows."""
    return re.sub(r'<text class="about".*?</text>', "", drawn)


def _home(
    every: Mapping[str, Room], places: Mapping[str, tuple], width: float, ground: float
) -> str:
    """What belongs to the package `cm3leon`, as one area."""
    top = min(places[name][1] for name in every if name in places and name not in OURS)
    left, high = EDGE, ground + 66 + EDGE / 2 - (top - EDGE / 2 - 14)
    return (
        f'<rect class="home" x="{left}" y="{top - EDGE / 2 - 14:.0f}" '
        f'width="{width - 2 * EDGE:.0f}" height="{high:.0f}" rx="12"/>'
        f'<text class="name" x="{left + 14}" y="{top - 4:.0f}">cm3leon/</text>'
    )


def _ground(room: Room, width: float, y: float) -> str:
    x, wide = EDGE * 2, width - 4 * EDGE
    return (
        f'<g><rect class="box" x="{x}" y="{y:.0f}" width="{wide:.0f}" height="56" rx="7"/>'
        f'<text class="name" x="{x + 10}" y="{y + 20:.0f}">single files, used by all</text>'
        f'<text class="about" x="{x + 10}" y="{y + 40:.0f}">{escape(room.about)}</text></g>'
    )


# ---------------------------------------------------------------- command


def broken() -> list[str]:
    """Every limit that does not hold, in words."""
    said = [f"{folder} has {n} modules, at most {MODULES}" for folder, n in
            modules_a_folder().items() if n > MODULES]  # fmt: skip
    median = statistics.median(lengths())
    if median > MEDIAN:
        said.append(f"the median function has {median:g} lines, at most {MEDIAN}")
    said += [f"{name} takes {n} arguments, at most {ARGUMENTS}" for name, n in
             many_arguments().items()]  # fmt: skip
    said += [f"{kind} touches {n} files, at most {TOUCHED[kind]}" for kind, n in
             files_touched().items() if n > TOUCHED.get(kind, 0)]  # fmt: skip
    return said


def counts() -> str:
    """The counts as lines of text."""
    every = lengths()
    folders = sorted(modules_a_folder().items(), key=lambda one: -one[1])[:5]
    lines = ["modules a folder, the fullest: " + ", ".join(f"{n} {name}" for name, n in folders)]
    tenth = statistics.quantiles(every, n=10)[-1]
    lines.append(
        f"lines a function: median {statistics.median(every):g}, 90th percentile {tenth:g}, "
        f"longest {max(every)}, of {len(every):,}"
    )
    lines.append("lines of source:")
    lines += [f"  {n:7,} {name}" for name, n in sorted(source_lines().items())]
    lines.append("files touched: " + ", ".join(f"{n} {kind}" for kind, n in
                                               files_touched().items()))  # fmt: skip
    return "\n".join(lines)


def house(check: bool = False) -> int:
    """Print the counts and every limit that does not hold, and write docs/house.svg.

    Args:
        check: write nothing; exit code 1 where a limit or the drawing does not hold
    """
    print(counts())
    said, drawn = broken(), drawing()
    if not check:
        DRAWING.write_text(drawn, encoding="utf-8")
        print(DRAWING)
    elif not DRAWING.is_file() or bare(DRAWING.read_text("utf-8")) != bare(drawn):
        said.append(f"{DRAWING.name} is not of these sources; run nox -s house")
    for one in said:
        print(f"does not hold: {one}")
    return int(bool(said) and check)


if __name__ == "__main__":
    sys.exit(guarded(lambda: called(house)))
