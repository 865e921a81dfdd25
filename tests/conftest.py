"""What holds for every test: everybody gets the same examples, and no test uses a network."""

import os
import runpy
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from tests.guard import golden as goldens

# No deadline: a busy machine is no fault. `pytest --hypothesis-profile=explore` draws new examples.
settings.register_profile("house", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, print_blob=True)
settings.load_profile("house")
ROOT = Path(__file__).resolve().parents[1]
NOWHERE = "http://127.0.0.1:9"  # a proxy that is not there
OFFLINE = {  # for the processes a test starts, whose sockets are their own
    "HF_HUB_OFFLINE": "1",
    "CM3LEON_QUIET_S": "1000000000",  # no line hangs on how busy this machine is
    **{name: NOWHERE for kind in ("http", "https", "ftp", "all")
       for name in (f"{kind}_proxy", f"{kind}_proxy".upper())},
    "no_proxy": "localhost,127.0.0.1",
    "NO_PROXY": "localhost,127.0.0.1",
}  # fmt: skip


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A headless Chromium; the test is skipped where there is none."""
    from cm3leon.reports.dashboard import inline
    from tests.browser import Browser

    binary = inline.browser()
    if binary is None:
        pytest.skip("no chromium on this machine")
    with Browser(binary, tmp_path_factory.mktemp("profile")) as one:
        yield one


class NetworkUsed(RuntimeError):
    """A test asked for something outside this machine."""


def closed(name):
    """A method of sockets that refuses all but those between processes (AF_UNIX)."""
    original = getattr(socket.socket, name)

    def guarded(self, *arguments):
        if self.family != socket.AF_UNIX:
            self.close()  # who opened it does not expect this error
            raise NetworkUsed(f"socket.{name} to {arguments[-1]!r}: tests use no network")
        return original(self, *arguments)

    return guarded


def here_alone(name):
    """A look-up that knows this machine, as the loopback address, and nothing else."""
    original, own = getattr(socket, name), {None, "", "localhost", socket.gethostname()}

    def lookup(host, *arguments, **options):
        if host not in own and not str(host).startswith(("127.", "::1")):
            raise NetworkUsed(f"look-up of {host!r}: tests use no network")
        return original("127.0.0.1" if host else host, *arguments, **options)

    return lookup


def pytest_addoption(parser):
    parser.addoption(
        "--write-goldens", action="store_true", help="write what tests/goldens/ keeps anew"
    )


@pytest.fixture
def run_module(monkeypatch, capsys) -> Callable[..., subprocess.CompletedProcess]:
    """`python -m MODULE WORDS` in the checkout, by this process: a start of Python costs most."""

    def run(module: str, *words: str) -> subprocess.CompletedProcess:
        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.chdir(ROOT)
            patch.setattr(sys, "argv", [module, *words])
            if module in sys.modules:  # the package's attribute too is put back behind the run
                package, _, name = module.rpartition(".")
                patch.setattr(sys.modules[package], name, sys.modules[module])
            patch.delitem(sys.modules, module, raising=False)
            with pytest.raises(SystemExit) as stop:
                runpy.run_module(module, run_name="__main__", alter_sys=True)
        return subprocess.CompletedProcess(words, stop.value.code or 0, *capsys.readouterr())

    return run


@pytest.fixture
def golden(request):
    """What is kept for this test (guard/golden.py)."""
    path = goldens.FOLDER / f"{request.path.stem.removeprefix('test_')}.json"
    return goldens.Golden(path, request.node.name, request.config.getoption("write_goldens"))


def pytest_configure(config):
    """From before the first import of a test to the end: fixtures of any scope are covered."""
    for name in ("connect", "connect_ex", "sendto"):
        setattr(socket.socket, name, closed(name))
    for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr"):
        setattr(socket, name, here_alone(name))
    os.environ.update(OFFLINE)
