"""What holds for every test: everybody gets the same examples, and no test uses a network."""

import socket

import pytest
from hypothesis import settings

# No deadline: a busy machine is no fault. `pytest --hypothesis-profile=explore` draws new examples.
settings.register_profile("house", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, print_blob=True)
settings.load_profile("house")


class NetworkUsed(RuntimeError):
    """A test asked for something outside this machine."""


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Every socket but those between processes (AF_UNIX) refuses, and no name is looked up."""

    def closed(name):
        original = getattr(socket.socket, name)

        def guarded(self, *arguments):
            if self.family != socket.AF_UNIX:
                raise NetworkUsed(f"socket.{name} to {arguments[-1]!r}: tests use no network")
            return original(self, *arguments)

        return guarded

    def lookup(host, *arguments, **options):
        raise NetworkUsed(f"look-up of {host!r}: tests use no network")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, closed(name))
    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # for the processes a test starts
