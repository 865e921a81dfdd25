"""Runs tests against changes of modules: collected once, forked for each change.

    python -P mutation_worker.py      in the root of a copy of the tree; standard library only

Told line by line on stdin, answers on stdout, JSON both. The first line names `targets` (files that
will be changed), `tests` (test files) and `known` (of these, such as need not be run unchanged).
The others are run unchanged, and the answer says which of their tests passed, how long each took
(CPU seconds) and which lines of the targets it ran. Then of each request {"target", "function",
"source", "tests", "seconds"}: the function of that name takes the code it has in `source`, the
named tests run in a fork, and the answer says what came of it. A fork has the parent's collected
tests and imported libraries, so a change costs its tests alone. Without a function the module's
constants and defaults are replaced wherever they were imported. `--once` runs the named tests
a single time, of a target that was changed on disk.
"""

from __future__ import annotations

import ast
import contextlib
import gc
import importlib
import json
import os
import resource
import signal
import sys
import threading
import time
import types
import warnings
from pathlib import Path

MEMORY = 8 * 2**30  # bytes of data that a changed program may take
IMPORT_S = 600  # CPU seconds to collect the tests of a changed module
PLUGINS = ("hypothesis", "pytest", "_pytest")  # pytest wants to import these itself
KILLED, TIMEOUT, SURVIVED, UNKNOWN = "killed", "timeout", "survived", "unknown"


def worker(once: bool) -> int:
    """Collect, then answer until stdin ends."""
    answers, orders = os.fdopen(os.dup(1), "w"), os.fdopen(os.dup(0), "r")
    nothing = os.open(os.devnull, os.O_RDWR)
    for handle in (0, 1, 2):
        os.dup2(nothing, handle)
    sys.path.insert(0, os.getcwd())
    asked = json.loads(orders.readline())
    if once:
        resource.setrlimit(resource.RLIMIT_CPU, (IMPORT_S, IMPORT_S))
    else:
        import_libraries(asked["tests"])
    traced = Lines(asked["targets"])
    if not once:
        traced.start()
    import pytest

    plugin = Plugin(traced, orders, answers, asked, once)
    options = ["-q", "-s", "-p", "no:cacheprovider", "-p", "no:xdist", "--color=no", "-m"]
    options += ["not full", f"--basetemp={os.getcwd()}/../pytest"]
    try:
        code = int(pytest.main([*options, *asked["tests"]], plugins=[plugin]))
    except BaseException as error:  # of a change that runs on import, or of the options
        code, plugin.refused = 1, repr(error)
    if not plugin.reached:  # a changed module that cannot be imported; or tests that never could
        plugin.answer(outcome=KILLED, by=f"collection, exit {code}: {plugin.refused}")
    return 0


def import_libraries(tests: list[str]) -> None:
    """What the tests import from elsewhere, before lines are counted: that is slower."""
    for file in tests:
        for node in ast.walk(ast.parse(Path(file).read_text(encoding="utf-8"))):
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            for name in names:
                package = name.split(".")[0]
                if package not in PLUGINS and not Path(package).exists():
                    try:
                        with warnings.catch_warnings():
                            warnings.simplefilter("ignore")
                            importlib.import_module(name)
                    except Exception:  # an optional one, or a helper of the tests
                        continue


class Lines:
    """Lines of some files that run between start and stop, inside functions."""

    def __init__(self, targets: list[str]):
        self.targets = {str(Path(one).resolve()): one for one in targets}
        self.found: set[tuple[str, int]] = set()

    def start(self) -> None:
        """From here on, in all threads."""
        threading.settrace(self._call)
        sys.settrace(self._call)

    def stop(self) -> dict[str, list[int]]:
        """By target, those since the start."""
        sys.settrace(None)
        threading.settrace(None)
        found: dict[str, list[int]] = {}
        for path, line in sorted(self.found):
            found.setdefault(self.targets[path], []).append(line)
        self.found = set()
        return found

    def _call(self, frame, event, argument):
        if frame.f_code.co_filename not in self.targets or frame.f_code.co_name == "<module>":
            return None
        return self._line(frame, event, argument)

    def _line(self, frame, event, argument):
        self.found.add((frame.f_code.co_filename, frame.f_lineno))
        return self._line


class Plugin:
    """Takes the place of pytest's loop over the tests."""

    def __init__(self, traced: Lines, orders, answers, asked: dict, once: bool):
        self.traced, self.orders, self.answers = traced, orders, answers
        self.asked, self.once, self.reached = asked, once, False
        self.refused = ""
        self.failed: list[str] = []
        self.passed: dict[str, bool] = {}

    def answer(self, **said) -> None:
        """One line to who asked."""
        self.answers.write(json.dumps(said) + "\n")
        self.answers.flush()

    def pytest_collectreport(self, report) -> None:
        """The first file that cannot be imported."""
        if report.failed and not self.refused:
            self.refused = f"{report.nodeid}: {str(report.longrepr).splitlines()[-1]}"

    def pytest_runtest_logreport(self, report) -> None:
        """What failed, and what ran and passed."""
        if report.failed:
            self.failed.append(report.nodeid)
        if report.when == "call":
            self.passed[report.nodeid] = report.passed

    def pytest_runtestloop(self, session) -> bool:
        """All of the work."""
        self.reached = True
        on_import = self.traced.stop()
        items = {item.nodeid: item for item in session.items}
        if session.testsfailed:  # while collecting
            self.answer(outcome=KILLED, by=f"collection of {self.refused}")
        elif self.once:
            names, seconds = self.asked["names"], self.asked["seconds"]
            self.answer(**self._forked(seconds, lambda: self._run(items, names)))
        else:
            functions = {path: functions_of(path) for path in self.traced.targets}
            gc.freeze()
            said = self._forked(None, lambda: self.answer(tests=self._unchanged(items)))
            self.answer(**said, on_import=on_import)
            for line in self.orders:
                self.answer(**self._changed(items, functions, json.loads(line)))
        return True

    def _unchanged(self, items: dict) -> dict:
        """Of each test that passes: CPU seconds and lines."""
        found = {}
        order = [
            one for name, one in items.items() if name.split("::")[0] not in self.asked["known"]
        ]
        for place, item in enumerate(order):
            self.failed.clear()
            start = spent()
            self.traced.start()
            self._protocol(item, order[place + 1] if place + 1 < len(order) else None)
            lines = self.traced.stop()
            if self.passed.get(item.nodeid) and not self.failed:
                found[item.nodeid] = {"seconds": round(spent() - start, 3), "lines": lines}
        return found

    def _changed(self, items: dict, functions: dict, asked: dict) -> dict:
        path = str(Path(asked["target"]).resolve())
        name = asked["function"]
        if name is None:

            def change() -> None:
                replace_constants(path, asked["source"])
        else:
            known = functions[path].get(name, [])
            old, new = codes_of_living(known), codes_of(asked["source"], path).get(name, [])
            if not old or len(old) != len(new):
                return {"outcome": UNKNOWN, "by": f"{name} is not found"}

            def change() -> None:
                for one in known:
                    one.__code__ = new[old.index(one.__code__)]

        def run() -> None:
            change()
            self._run(items, asked["tests"])

        return self._forked(asked["seconds"], run)

    def _run(self, items: dict, names: list[str]) -> None:
        """Tests by name until one fails; ends the process."""
        order = [items[name] for name in names]
        self.failed.clear()
        for place, item in enumerate(order):
            self._protocol(item, order[place + 1] if place + 1 < len(order) else None)
            if self.failed:
                self.answer(outcome=KILLED, by=self.failed[0])
                os._exit(1)
        os._exit(0)

    def _protocol(self, item, following) -> None:
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)

    def _forked(self, seconds: float | None, run) -> dict:
        """`run` in a process of its own with so many CPU seconds; what came of it."""
        child = os.fork()
        if not child:
            try:
                os.setsid()
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
                if seconds is not None:
                    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
                    limit = int(seconds) + 1
                    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
                self.answer = keep
                run()
                os._exit(0)
            except BaseException:  # also what no test caught: the change is noticed
                os._exit(1)
        status, usage = waited(child, seconds)
        end = os.waitstatus_to_exitcode(status)
        over = end in (-signal.SIGXCPU, -signal.SIGKILL)
        outcome = SURVIVED if end == 0 else TIMEOUT if over else KILLED
        said = {"outcome": outcome, "by": f"exit {end}" if end else None} | kept()
        return said | {"cpu": round(usage.ru_utime + usage.ru_stime, 3)}


def keep(**said) -> None:
    """In a fork: an answer that the parent gives."""
    Path("../said.json").write_text(json.dumps(said), encoding="utf-8")


def kept() -> dict:
    """What a fork left."""
    path = Path("../said.json")
    if not path.exists():
        return {}
    said = json.loads(path.read_text(encoding="utf-8"))
    path.unlink()
    return said


def spent() -> float:
    """CPU seconds of this process and the children it waited for."""
    own, children = (resource.getrusage(who) for who in (0, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def waited(child: int, seconds: float | None) -> tuple[int, object]:
    """Status and usage of a child; one that sleeps instead of computing is killed at last."""
    end = time.monotonic() + (36_000 if seconds is None else 120 + 40 * seconds)
    while True:
        found, status, usage = os.wait4(child, os.WNOHANG)
        if found:
            break
        if time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
        time.sleep(0.01)
    with contextlib.suppress(OSError):  # what its tests started and left
        os.killpg(child, signal.SIGKILL)
    return status, usage


def codes_of(source: str, path: str) -> dict[str, list]:
    """The code of every function by qualified name, in order, of a module's source."""
    found: dict[str, list] = {}

    def look(code) -> None:
        for inner in code.co_consts:
            if isinstance(inner, types.CodeType):
                found.setdefault(inner.co_qualname, []).append(inner)
                look(inner)

    look(compile(source, path, "exec", dont_inherit=True))
    return found


def functions_of(path: str) -> dict[str, list]:
    """Living functions of a file by qualified name."""
    found: dict[str, list] = {}
    for one in gc.get_objects():
        if type(one) is types.FunctionType and one.__code__.co_filename == path:
            found.setdefault(one.__code__.co_qualname, []).append(one)
    return found


def codes_of_living(functions: list) -> list:
    """The different codes of functions of one name, in the order of their lines."""
    codes = {id(one.__code__): one.__code__ for one in functions}
    return sorted(codes.values(), key=lambda code: code.co_firstlineno)


def replace_constants(path: str, source: str) -> None:
    """Constants and defaults of a module as another source makes them, wherever imported."""
    module = next(one for one in list(sys.modules.values()) if getattr(one, "__file__", "") == path)
    fresh = types.ModuleType(module.__name__)
    fresh.__file__ = path
    exec(compile(source, path, "exec", dont_inherit=True), vars(fresh))
    for name, new in list(vars(fresh).items()):
        old = vars(module).get(name)
        if name.startswith("__") or isinstance(new, types.ModuleType):
            continue
        if getattr(new, "__module__", None) == module.__name__ and callable(new):
            replace_defaults(old, new)
            continue
        for one in list(sys.modules.values()):
            if getattr(one, "__dict__", {}).get(name, fresh) is old:
                setattr(one, name, new)


def replace_defaults(old, new) -> None:
    """Code and defaults of a function, or of all functions of a class and its plain attributes."""
    old, new = getattr(old, "__wrapped__", old), getattr(new, "__wrapped__", new)
    if isinstance(new, types.FunctionType):
        old.__code__, old.__defaults__ = new.__code__, new.__defaults__
        old.__kwdefaults__ = new.__kwdefaults__
    elif isinstance(new, type):
        for name, inner in list(vars(new).items()):
            if isinstance(inner, types.FunctionType) and name in vars(old):
                replace_defaults(vars(old)[name], inner)
            elif isinstance(inner, int | float | str | tuple) and not name.startswith("__"):
                setattr(old, name, inner)


if __name__ == "__main__":
    sys.exit(worker("--once" in sys.argv))
