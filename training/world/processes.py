"""Processes that share work; one that is killed ends the command with a sentence."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from segrgbx_core.base.errors import DataError


@contextmanager
def processes(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Fresh processes; what has not started is dropped when an error leaves the block.

    `multiprocessing.Pool` waits for ever for a process that was killed, at times when it closes.

    Args:
        workers: how many.

    Raises:
        DataError: when one was killed, as happens where memory is short.
    """
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        yield pool
    except BrokenProcessPool:
        raise DataError(
            f"one of {workers} worker processes was killed; where memory is short use fewer of "
            "them, then the same command goes on"
        ) from None
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()
