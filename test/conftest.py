"""Fixtures and guards that every test shares."""

import ipaddress
import os
import socket
import sys
from pathlib import Path

import import_graph
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

HEAVY = {
    "accelerate", "matplotlib", "open_clip", "peft", "rclpy", "sklearn", "timm", "torch",
    "torchvision", "transformers",
}  # fmt: skip
"""Libraries that take a second or more to import, or that need ROS."""

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = ROOT.parent / "shared" / "samples"

_connect = socket.socket.connect
_connect_ex = socket.socket.connect_ex


def pytest_addoption(parser):
    parser.addoption(
        "--light",
        action="store_true",
        help="leave out test files that import torch, ROS or another heavy library, or a module "
        "that does; what this project's source says decides",
    )


def pytest_ignore_collect(collection_path, config):
    # Before collection, because collecting a file imports it.
    is_test = collection_path.name.startswith("test_") and collection_path.suffix == ".py"
    if config.getoption("--light") and is_test:
        return bool(HEAVY & import_graph.reached_libraries(collection_path)) or None
    return None


def pytest_sessionfinish(session):
    loaded = HEAVY & set(sys.modules)
    if session.config.getoption("--light") and loaded:
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        reporter.write_line(f"--light: a test imported {', '.join(sorted(loaded))}", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


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
