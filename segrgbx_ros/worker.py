"""The one thread that owns the model: ready pairs share a forward pass, the newest ones wait.

No ROS here: whoever submits pairs also says what to do with answers and complaints.
"""

from __future__ import annotations

import gc
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from segrgbx_core.align_counts import NS_PER_MS
from segrgbx_core.errors import SegrgbxError
from segrgbx_core.samples import Prediction, RgbxSample
from segrgbx_ros.config import BatchConfig
from segrgbx_ros.pipeline import PairedMessages


class Predictor(Protocol):
    """What the worker needs of a model; `segrgbx_ros.pair_labels.PairPredictor` has it."""

    def predict(self, samples: Sequence[RgbxSample], streams: Sequence[str]) -> list[Prediction]:
        """Answers one batch; every sample comes from the stream of its pair's name."""
        ...

    def forget(self) -> None:
        """Drops what is kept of streams."""
        ...


Deliver = Callable[[PairedMessages, RgbxSample, Prediction], None]
Complain = Callable[[str, str, str], None]  # pair, cause, message

OUT_OF_MEMORY = "out_of_memory"
HUNG_S = 5.0
"""A pass that has run for this long is reported."""


def _is_memory_error(error: Exception) -> bool:
    return isinstance(error, MemoryError)


@dataclass(frozen=True)
class Memory:
    """What the worker must know about the device's memory.

    Attributes:
        is_exhausted: True for errors that say that no memory is left.
        release: gives cached memory back.
    """

    is_exhausted: Callable[[Exception], bool] = _is_memory_error
    release: Callable[[], Any] = gc.collect


@dataclass
class WorkReport:
    """What happened since the report before.

    Attributes:
        answered: pairs that got labels.
        batches: forward passes.
        replaced: pairs that had to make room for newer ones of the same name before they ran.
        cleared: pairs that were given up before they ran, on reset or deactivation.
        failed: pairs without an answer, by cause.
        latencies_ms: arrival of RGB to the end of publication, one per answer.
        timings_ms: sum over the batches of each stage's duration.
    """

    answered: int = 0
    batches: int = 0
    replaced: int = 0
    cleared: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    latencies_ms: list[float] = field(default_factory=list)
    timings_ms: Counter[str] = field(default_factory=Counter)

    def add(self, other: WorkReport) -> None:
        """Adds what happened in another interval."""
        self.answered += other.answered
        self.batches += other.batches
        self.replaced += other.replaced
        self.cleared += other.cleared
        self.failed.update(other.failed)
        self.latencies_ms += other.latencies_ms
        self.timings_ms.update(other.timings_ms)


class Worker:
    """Runs the model in its own thread on the newest pairs of every name.

    Args:
        predictor: the model; nobody else may call it between `start` and `stop`.
        batch: how many pairs share a pass, and how long a ready one waits for others.
        num_pairs: how many names there are.
        deliver: called in the worker's thread with every answer.
        complain: called in the thread with pair, cause and sentence when there is no answer.
        memory: how errors of memory are told apart, and what helps.
        depth: how many pairs of one name may wait; with 1 the newest one wins.
    """

    def __init__(
        self,
        predictor: Predictor,
        batch: BatchConfig,
        num_pairs: int,
        deliver: Deliver,
        complain: Complain,
        memory: Memory | None = None,
        depth: int = 1,
    ) -> None:
        self._predictor = predictor
        self._largest = self._capacity = min(batch.max_size, num_pairs)
        self._max_wait_s = batch.max_wait_ms / 1000
        self._deliver = deliver
        self._complain = complain
        self._memory = memory or Memory()
        self._began: float | None = None
        self._ready = threading.Condition()
        self._depth = depth
        self._slots: dict[str, deque[PairedMessages]] = {}
        self._must_forget = False
        self._report = WorkReport()
        self._runs = False
        self._thread: threading.Thread | None = None

    def submit(self, paired: PairedMessages) -> None:
        """Offers a pair; where its name's places are taken, the oldest gives way to it."""
        with self._ready:
            waiting = self._slots.setdefault(paired.pair, deque())
            if len(waiting) == self._depth:
                waiting.popleft()
                self._report.replaced += 1
            waiting.append(paired)
            self._ready.notify()

    def start(self) -> None:
        """Starts the thread; waits for the one before it if that is still in a pass."""
        if self._thread is not None:
            self._thread.join()
        self._runs = True
        self._capacity = self._largest
        self._thread = threading.Thread(target=self._run, name="segrgbx-worker", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float = 2.0) -> bool:
        """Stops after the pass that runs now, drops what waits.

        Returns:
            False when the pass outlasts the time-out; its answer will be dropped.
        """
        self.clear()
        with self._ready:
            self._runs = False
            self._ready.notify()
        if self._thread is None:
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def clear(self) -> None:
        """Drops what waits, and before the next pass what the model keeps of streams."""
        with self._ready:
            self._report.cleared += sum(map(len, self._slots.values()))
            self._slots.clear()
            self._must_forget = True

    def report(self) -> WorkReport:
        """What happened since the last call."""
        with self._ready:
            report, self._report = self._report, WorkReport()
        return report

    @property
    def capacity(self) -> int:
        """How many pairs share a pass at most; less after the memory did not suffice."""
        return self._capacity

    def trouble(self) -> str:
        """What is wrong with the thread itself, empty when nothing is."""
        if not self._runs:
            return ""
        if self._thread is None or not self._thread.is_alive():
            return "the worker has ended; deactivate and activate the node"
        began = self._began
        busy_s = 0.0 if began is None else time.monotonic() - began
        return f"a pass has been running for {busy_s:.0f} s" if busy_s > HUNG_S else ""

    def _run(self) -> None:
        while (batch := self._take()) is not None:
            self._began = time.monotonic()
            self._attempt(batch)
            self._began = None

    def _attempt(self, batch: list[PairedMessages]) -> None:
        failure = self._failure(batch)
        if failure is None:
            return
        cause, text = failure
        if cause == OUT_OF_MEMORY:  # by now nothing holds what the pass had allocated
            self._memory.release()
            if len(batch) > 1:
                self._capacity = len(batch) - 1
                for paired in batch:
                    self._attempt([paired])
                return
        self._fail(batch, cause, text)

    def _failure(self, batch: list[PairedMessages]) -> tuple[str, str] | None:
        try:
            if self._must_forget:
                self._must_forget = False
                self._predictor.forget()
            self._process(batch)
        except Exception as error:  # the outermost frame: the node outlives any failure of a pass
            text = f"{type(error).__name__}: {error}"
            if self._memory.is_exhausted(error):
                return OUT_OF_MEMORY, text
            return "exception", f"{text}\n{traceback.format_exc()}"
        return None

    def _fail(self, batch: list[PairedMessages], cause: str, text: str) -> None:
        with self._ready:
            self._report.failed[cause] += len(batch)
        if self._runs:
            for paired in batch:
                self._complain(paired.pair, cause, text)

    def _take(self) -> list[PairedMessages] | None:
        """The next batch in order of arrival, None when stopped."""
        with self._ready:
            self._ready.wait_for(lambda: self._slots or not self._runs)
            if len(self._slots) < self._capacity:
                self._ready.wait_for(
                    lambda: len(self._slots) >= self._capacity or not self._runs, self._max_wait_s
                )
            if not self._runs:
                return None
            return [self._next(name) for name in list(self._slots)[: self._capacity]]

    def _next(self, name: str) -> PairedMessages:
        """The oldest pair of a name; if more wait, the name goes to the end of the line."""
        waiting = self._slots.pop(name)
        paired = waiting.popleft()
        if waiting:
            self._slots[name] = waiting
        return paired

    def _process(self, batch: list[PairedMessages]) -> None:
        decoded = [
            (paired, sample) for paired in batch if (sample := self._decode(paired)) is not None
        ]
        if not decoded:
            return
        try:
            predictions = self._predictor.predict(
                [sample for _, sample in decoded], [paired.pair for paired, _ in decoded]
            )
        except SegrgbxError as error:
            if len(decoded) > 1:  # one bad sample must not take its neighbours with it
                for paired, _ in decoded:
                    self._process([paired])
                return
            self._refuse(decoded[0][0], error)
            return
        for (paired, sample), prediction in zip(decoded, predictions, strict=True):
            if self._runs:
                self._deliver(paired, sample, prediction)
        self._count([paired for paired, _ in decoded], predictions)

    def _decode(self, paired: PairedMessages) -> RgbxSample | None:
        try:
            return paired.sample()
        except SegrgbxError as error:
            self._refuse(paired, error)
            return None

    def _refuse(self, paired: PairedMessages, error: SegrgbxError) -> None:
        with self._ready:
            self._report.failed["message"] += 1
        self._complain(paired.pair, "message", str(error))

    def _count(self, batch: list[PairedMessages], predictions: list[Prediction]) -> None:
        now_ns = time.time_ns()
        with self._ready:
            self._report.answered += len(batch)
            self._report.batches += 1
            self._report.timings_ms.update(predictions[0].timings_ms)
            self._report.latencies_ms += [
                (now_ns - paired.arrived_ns) / NS_PER_MS for paired in batch
            ]
