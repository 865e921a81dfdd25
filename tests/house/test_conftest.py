"""The network is closed: to sockets and look-ups here, to what a test starts, in every fixture."""

import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

OUTSIDE = ("192.0.2.1", 80)  # RFC 5737: an address that nobody has
FETCH = """
import urllib.request
try:
    urllib.request.urlopen("https://example.org", timeout=20)
except OSError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def early():
    """What a module's fixture meets, which is made before those of single tests."""
    with pytest.raises(RuntimeError) as error, socket.socket() as one:
        one.connect(OUTSIDE)
    return str(error.value)


def test_sockets_refuse(early):
    assert "socket.connect to ('192.0.2.1', 80): tests use no network" in early
    with socket.socket() as one, pytest.raises(RuntimeError, match="connect_ex"):
        one.connect_ex(OUTSIDE)
    with socket.socket(type=socket.SOCK_DGRAM) as one, pytest.raises(RuntimeError, match="sendto"):
        one.sendto(b"x", OUTSIDE)
    with pytest.raises(RuntimeError, match="tests use no network"):
        socket.create_connection(OUTSIDE, timeout=1)


@pytest.mark.parametrize("look", ["getaddrinfo", "gethostbyname", "gethostbyaddr"])
def test_no_name_is_looked_up(look):
    with pytest.raises(RuntimeError, match=r"look-up of 'example.org'"):
        getattr(socket, look)(*(("example.org", 80) if look == "getaddrinfo" else ("example.org",)))


def test_this_machine_knows_itself():
    for host in ("localhost", socket.gethostname(), "127.0.0.1"):
        found = socket.getaddrinfo(host, 80, socket.AF_INET)
        assert {place[4][0] for place in found} == {"127.0.0.1"}


def test_libraries_get_nothing():
    with pytest.raises((RuntimeError, urllib.error.URLError)):
        urllib.request.urlopen("https://example.org", timeout=1)
    hub = pytest.importorskip("huggingface_hub")
    with pytest.raises(Exception, match=r"(?i)offline|no network|cannot find|couldn't"):
        hub.hf_hub_download("gpt2", "config.json", cache_dir=os.devnull)


def test_processes_talk_to_each_other():
    one, other = socket.socketpair(socket.AF_UNIX)
    with one, other:
        one.sendall(b"here")
        assert other.recv(4) == b"here"


def test_what_a_test_starts_is_offline_too():
    done = subprocess.run([sys.executable, "-c", FETCH], capture_output=True, text=True, timeout=60)
    assert "refused" in done.stdout.lower() and os.environ["HF_HUB_OFFLINE"] == "1"
