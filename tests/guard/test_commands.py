"""Every command that README.md and the other pages name is held against the program's own parser:
a module, session, command or option that was renamed fails here. Nothing is computed.
"""

from __future__ import annotations

import re
import runpy
import shlex
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from pathlib import Path

import pytest
import tyro

from cm3leon.options import check_options

ROOT = Path(__file__).resolve().parents[2]
PAGES = ["README.md", "CONTRIBUTING.md", *sorted(
    str(path.relative_to(ROOT))
    for pattern in ("docs/**/*.md", "baselines/**/README.md") for path in ROOT.glob(pattern)
)]  # fmt: skip
FENCE = re.compile(r"^```(?:bash|sh|shell|console)\n(.*?)^```", re.M | re.S)
ANY_FENCE = re.compile(r"^```.*?^```", re.M | re.S)
CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
PROGRAMS = ("cm3leon", "nox", "python", "pip", "pytest", "torchrun", "ruff")
OURS = ("cm3leon", "nox", "python", "torchrun")  # whose options are this project's
PATH = re.compile(r"[\w.-]+(?:/[\w.-]+)+\.(?:py|md|c|json|yml|png|toml|safetensors)")
WRITTEN = (  # by runs
    "reports/out/", "results/", "model/", "bank/", "hf/", "tokens/", "prompts/", "asked/", "tuned/",
    "vq/", "kept/",
)  # fmt: skip


class Parsed(BaseException):
    """The options were read; nothing more is to happen."""


def lines_of(page: str) -> list[str]:
    """The lines of a page's shell blocks."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [line for block in FENCE.findall(text) for line in block.splitlines()]


def inline_of(page: str) -> Iterator[tuple[str, list[str]]]:
    """The pieces of code in each line of a page's prose and tables."""
    text = ANY_FENCE.sub("", (ROOT / page).read_text(encoding="utf-8"))
    for line in text.splitlines():
        yield line, CODE.findall(line)


def simple_commands(line: str) -> Iterator[list[str]]:
    """The words of each command of a line of shell."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if set(word) <= set("&|;"):
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words.pop(0)
            if words:
                yield words
            words = []
        else:
            words.append(word)


def commands_of(page: str) -> list[list[str]]:
    """All commands of a page: its shell blocks', and what stands as code and begins like one."""
    found = [words for line in lines_of(page) for words in simple_commands(line)]
    for _, pieces in inline_of(page):
        for piece in pieces:
            program, *rest = piece.split()
            if program in PROGRAMS and rest and rest[0] != "->":
                found += map(named, simple_commands(piece))
    return found


def named(words: list[str]) -> list[str]:
    """A command that prose names without its arguments: that it is there is all that is checked."""
    return [*asking(words), "--help"] if len(words) <= len(asking(words)) else words


def asking(words: list[str]) -> tuple[str, ...]:
    """A command up to where its options begin."""
    if words[0] == "nox":
        return (*words[:3], "--")
    if words[0] == "torchrun":
        return ("python", "-m", words[words.index("-m") + 2])
    return tuple(words[: 3 if words[0] == "python" else 2])


COMMANDS = {f"{page}: {shlex.join(words)}": words for page in PAGES for words in commands_of(page)}


@pytest.fixture
def parses(monkeypatch) -> Callable[[list[str]], None]:
    """Fails unless a command is one of this project's, with options that it has."""
    real = tyro.cli

    def read(*args, **options):
        found = real(*args, **options)
        if is_dataclass(found):
            check_options(found)
        raise Parsed

    monkeypatch.setattr(tyro, "cli", read)
    return lambda words: check(words, monkeypatch)


def check(words: list[str], monkeypatch) -> None:
    program, *rest = words
    if program == "cm3leon":
        return module_parses("cm3leon.cli.main", rest, monkeypatch)
    if program == "python" and rest[:1] == ["-m"]:
        if rest[1] in ("pip", "pytest"):
            return check(rest[1:], monkeypatch)
        return module_parses(rest[1], rest[2:], monkeypatch)
    known = {"nox": sessions, "torchrun": torchrun, "pip": packages, "pytest": suite, "ruff": ruff}
    if program not in known:
        pytest.fail(f"no such program: {program}")
    return known[program](rest, monkeypatch)


def module_parses(module: str, words: list[str], monkeypatch) -> None:
    """`python -m MODULE WORDS` reads its options without a fault."""
    place = ROOT / Path(*module.split("."))
    if (place / "__main__.py").is_file():  # python -m PACKAGE
        module += ".__main__"
    elif not place.with_suffix(".py").is_file():
        pytest.fail(f"there is no module {module}")
    monkeypatch.setattr(sys, "argv", [module, *words])
    monkeypatch.delitem(sys.modules, module, raising=False)
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except Parsed:
        return
    except SystemExit as stop:
        assert not stop.code and "--help" in words, f"{module} refuses {shlex.join(words)}"
    else:
        pytest.fail(f"{module} read no options")


class Session:
    """Stands in for nox.Session: what a session would install and run."""

    def __init__(self, posargs: list[str]):
        self.posargs, self.ran = posargs, []

    def install(self, *words: str) -> None:
        for word in words:
            if extras := re.fullmatch(r"\.\[(.*)\]", word):
                check_extras(extras[1])

    def run(self, *words: str, **_) -> None:
        self.ran.append(list(words))


def sessions(words: list[str], monkeypatch) -> None:
    """`nox -s NAMES -- OPTIONS`: the sessions are there, and what they run parses."""
    registry = pytest.importorskip("nox.registry")
    before = dict(registry._REGISTRY)
    registry._REGISTRY.clear()
    try:
        runpy.run_path(str(ROOT / "noxfile.py"))
        found = dict(registry._REGISTRY)
    finally:
        registry._REGISTRY.clear()
        registry._REGISTRY.update(before)
    if words == ["-l"]:
        return
    names, posargs = words, []
    if "--" in words:
        names, posargs = words[: words.index("--")], words[words.index("--") + 1 :]
    assert names[0] == "-s" and len(names) > 1, f"not understood: nox {shlex.join(words)}"
    for name in names[1:]:
        assert name in found, f"noxfile.py has no session {name}"
        session = Session(posargs)
        found[name].func(session)
        assert session.ran
        for ran in session.ran:
            if ran[0] not in ("uv", "mkdocs", "basedpyright", "jupyter-execute"):
                check(ran, monkeypatch)


def torchrun(words: list[str], monkeypatch) -> None:
    """torch's launcher takes its options, our module the rest."""
    from torch.distributed.run import get_args_parser

    asked = get_args_parser().parse_args(words)
    assert asked.module
    module_parses(asked.training_script, asked.training_script_args, monkeypatch)


def packages(words: list[str], _) -> None:
    """`pip install ...`: the extras that are named are there."""
    assert words[0] == "install"
    for word in words[1:]:
        if extras := re.fullmatch(r"(?:\.|cm3leon)\[(.*)\]", word):
            check_extras(extras[1])


def check_extras(names: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(names.split(",")) <= set(project["optional-dependencies"])


def suite(words: list[str], _) -> None:
    """`pytest ...`: files are there, markers known."""
    for word in words:
        if word.startswith("tests/"):
            assert (ROOT / word.partition("::")[0]).exists(), f"there is no {word}"
    if "-m" in words:
        settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
        markers = settings["tool"]["pytest"]["ini_options"]["markers"]
        assert words[words.index("-m") + 1] in {marker.partition(":")[0] for marker in markers}


def ruff(words: list[str], _) -> None:
    """It is somebody else's program: its own parser is asked."""
    assert words[0] in ("check", "format")


def test_the_pages_hold_commands():
    """The net is not empty: it caught what a reader sees first."""
    found = list(COMMANDS.values())
    assert ["nox", "-s", "fid_coco"] in found and ["nox", "-s", "tests"] in found
    assert len([one for one in COMMANDS if one.startswith("docs/commands.md")]) > 40


@pytest.mark.parametrize("name", COMMANDS, ids=[name[:90] for name in COMMANDS])
def test_a_command_of_the_pages_parses(name, parses):
    parses(COMMANDS[name])


MENTIONS = sorted({
    (page, line, option)
    for page in PAGES for line, pieces in inline_of(page) for piece in pieces
    if piece.startswith("--") for option in re.findall(r"--[a-z][\w-]*", piece)
})  # fmt: skip


@pytest.mark.parametrize(
    "page, line, option", MENTIONS, ids=[f"{page}: {option}" for page, _, option in MENTIONS]
)
def test_an_option_that_a_page_names_belongs_to_a_command_beside_it(page, line, option, helps):
    """Of a row of a table to a command of that row, elsewhere to one of the page."""
    beside = [
        words for piece in CODE.findall(line) if piece.split()[0] in PROGRAMS
        for words in simple_commands(piece)
    ]  # fmt: skip
    asked = beside if line.startswith("|") else commands_of(page)
    asked = [words for words in asked if words[0] in OURS and "pip" not in words]
    row = re.compile(rf"^[│|\s]*{option}(?![\w-])", re.M)  # of the list of options
    assert any(row.search(helps(words)) for words in asked), f"no command takes {option}"


@pytest.fixture
def helps(parses, capsys) -> Callable[[list[str]], str]:
    """What a command says about its options."""

    def say(words: list[str]) -> str:
        command = asking(words)
        if command not in SAID:
            capsys.readouterr()
            parses([*command, "--help"])
            SAID[command] = capsys.readouterr().out
        return SAID[command]

    return say


SAID: dict[tuple, str] = {}


SETTLED = sorted({
    (page, path)
    for page in ("README.md", "CONTRIBUTING.md", "docs/design.md")
    for _, pieces in inline_of(page) for piece in pieces for path in PATH.findall(piece)
    if not path.startswith(WRITTEN) and "*" not in piece
})  # fmt: skip


@pytest.fixture(scope="module")
def files() -> list[str]:
    """Every file of the project, but for what lies in hidden folders, and CI's."""
    tops = [path for path in ROOT.iterdir() if not path.name.startswith(".")]
    below = [one for top in [*tops, ROOT / ".github"] for one in (top, *top.rglob("*"))]
    return [f"/{path.relative_to(ROOT).as_posix()}" for path in below if path.is_file()]


@pytest.mark.parametrize("page, path", SETTLED)
def test_a_file_that_a_page_names_is_there(page, path, files):
    assert any(one.endswith(f"/{path}") for one in files)
