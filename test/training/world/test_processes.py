"""Processes that share work."""

import os
import signal
import time

import pytest

from segrgbx_core.base.errors import DataError
from training.world.processes import processes


def test_work_is_shared():
    with processes(2) as pool:
        assert list(pool.map(abs, [-1, 2])) == [1, 2]


def _kill_one():
    with processes(2) as pool:
        pool.submit(os.getpid).result()
        pool.submit(signal.raise_signal, signal.SIGKILL).result()


def test_a_killed_process_ends_the_work_with_a_sentence():
    with pytest.raises(DataError, match="one of 2 worker processes was killed"):
        _kill_one()


def _fail_before(rest):
    with processes(1) as pool:
        failing = pool.submit(int, "none")
        rest += [pool.submit(time.sleep, 0.2) for _ in range(50)]
        failing.result()


def test_an_error_of_the_work_is_raised_and_what_has_not_started_is_dropped():
    rest = []
    with pytest.raises(ValueError, match="invalid literal"):
        _fail_before(rest)
    while not all(job.done() for job in rest):
        time.sleep(0.01)
    assert sum(job.cancelled() for job in rest) > 40
