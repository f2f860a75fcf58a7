"""Fixtures and guards that every test shares."""

import ipaddress
import os
import socket
from pathlib import Path

import numpy as np
import pytest

try:
    from hypothesis import settings
except ImportError:
    pass  # the tests that need it say so
else:
    # The same examples in every run: a change is not blamed for what it did not do.
    settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
    settings.load_profile("repeatable")

# Tensors in tests are tiny: a second thread costs more than it gives. Before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = ROOT.parent / "shared" / "samples"

_connect = socket.socket.connect
_connect_ex = socket.socket.connect_ex


def pytest_collection_modifyitems(items):
    for item in items:
        if "samples_dir" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.samples)


def _refuse_network(sock, address):
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    host = address[0]
    if host in ("", "localhost"):
        return
    try:
        is_loopback = ipaddress.ip_address(host.split("%")[0]).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback:
        raise RuntimeError(f"a test wants to connect to {host}: tests run without a network")


def _guarded_connect(sock, address):
    _refuse_network(sock, address)
    return _connect(sock, address)


def _guarded_connect_ex(sock, address):
    _refuse_network(sock, address)
    return _connect_ex(sock, address)


@pytest.fixture(autouse=True, scope="session")
def no_network():
    """Python sockets reach the own machine only."""
    patch = pytest.MonkeyPatch()
    patch.setattr(socket.socket, "connect", _guarded_connect)
    patch.setattr(socket.socket, "connect_ex", _guarded_connect_ex)
    yield
    patch.undo()


@pytest.fixture
def rng():
    """The same random numbers in every run."""
    return np.random.default_rng(20)


@pytest.fixture(scope="session")
def samples_dir():
    """Folder of real frames that lie beside the checkout and are not part of it."""
    if not SAMPLES.is_dir():
        pytest.skip(f"no real frames at {SAMPLES}")
    return SAMPLES
