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
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

from segrgbx_core.base.errors import ModelOutputError, SegrgbxError
from segrgbx_core.base.samples import NS_PER_MS, Prediction, RgbxSample
from segrgbx_ros.config.node import BatchConfig
from segrgbx_ros.node.health.streams import PATIENT, Patience
from segrgbx_ros.pairing.fused import FusedFrame, FuseRule, Member, read_members, rgb_alone
from segrgbx_ros.pairing.pipeline import X_EMPTY, EmptyXError, Pair


class Predictor(Protocol):
    """What the worker needs of a model; see `published_labels.PairPredictor`."""

    def predict(self, samples: Sequence[RgbxSample], streams: Sequence[str]) -> list[Prediction]:
        """Answers one batch; every sample comes from the stream of its pair's name."""
        ...

    def fuse(self, name: str, members: Sequence[Prediction], rgb: Prediction | None) -> Prediction:
        """One answer from those of a fused mask's members, and of RGB alone where it was asked."""
        ...

    def forget(self) -> None:
        """Drops what is kept of streams."""
        ...


Deliver = Callable[[Pair, RgbxSample, Prediction], None]
DeliverFused = Callable[[FusedFrame, Member, Prediction, Sequence[Member]], None]
Complain = Callable[[str, str, str], None]  # pair, cause, message
Decoded = tuple[Pair, RgbxSample]
Answer = tuple[Pair, RgbxSample, Prediction]
T = TypeVar("T")

OUT_OF_MEMORY = "out_of_memory"
_DELIVERY_S = 0.5
"""How long `clear` waits at most for the end of a publication that has begun."""


def _is_memory_error(error: Exception) -> bool:
    return isinstance(error, MemoryError)


@dataclass(frozen=True)
class Memory:
    """Errors and limits of the device's memory.

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
        cleared: pairs that were given up on reset, disabling or deactivation: those that waited,
            and those in a pass that began before.
        failed: pairs without an answer, by cause.
        fused: what became of the frames of fused masks, by name and outcome.
        faults: members of those frames whose X did not count, by pair and reason.
        exhausted: how often memory ran out, also where smaller passes then succeeded.
        latencies_ms: arrival of RGB to the end of publication, one per answer.
        timings_ms: sum over the batches of each stage's duration.
    """

    answered: int = 0
    batches: int = 0
    replaced: int = 0
    cleared: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    fused: Counter[tuple[str, str]] = field(default_factory=Counter)
    faults: Counter[tuple[str, str]] = field(default_factory=Counter)
    exhausted: int = 0
    latencies_ms: list[float] = field(default_factory=list)
    timings_ms: Counter[str] = field(default_factory=Counter)

    def add(self, other: WorkReport) -> None:
        """Adds what happened in another interval."""
        self.answered += other.answered
        self.batches += other.batches
        self.replaced += other.replaced
        self.cleared += other.cleared
        self.failed.update(other.failed)
        self.fused.update(other.fused)
        self.faults.update(other.faults)
        self.exhausted += other.exhausted
        self.latencies_ms += other.latencies_ms
        self.timings_ms.update(other.timings_ms)


@dataclass(frozen=True)
class _Failure:
    cause: str
    text: str


def _num_names(one: Pair | FusedFrame) -> int:
    return len(one.pairs) + len(one.missing) if isinstance(one, FusedFrame) else 1


def _is_black(member: Member) -> bool:
    """True where a member's answer is that of RGB alone."""
    return member.sample is not None and member.is_black


class Worker:
    """Runs the model in its own thread on the newest pairs of every name.

    Every pair has one outcome: answered once it is delivered, replaced, cleared or failed.

    Args:
        predictor: the model; nobody else may call it between `start` and `stop`.
        batch: how many pairs share a pass, and how long a ready one waits for others.
        num_pairs: how many names there are.
        deliver: called in the worker's thread with every answer.
        complain: called in the thread with pair, cause and sentence when there is no answer.
        memory: which errors are lack of memory, and what helps.
        depth: how many pairs of one name may wait; with 1 the newest one wins.
        patience: when a pass is called hung, and how long `start` and `stop` wait for its end.

    Attributes:
        deliver_fused: called in the worker's thread with every fused answer, after its members'.
        fuse_rule: which frames get a fused answer.
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
        patience: Patience = PATIENT,
    ) -> None:
        self.deliver_fused: DeliverFused | None = None
        self.fuse_rule = FuseRule()
        self._predictor = predictor
        self._largest = self._capacity = min(batch.max_size, num_pairs)
        self._max_wait_s = batch.max_wait_ms / 1000
        self._deliver = deliver
        self._complain = complain
        self._memory = memory or Memory()
        self._patience = patience
        self._began: float | None = None
        self._ready = threading.Condition()
        self._depth = depth
        self._slots: dict[str, deque[Pair | FusedFrame]] = {}
        # How often all was cleared: by now, and when the batch was taken that is in a pass.
        self._clearings = self._clearings_before = 0
        self._delivers = False
        self._must_forget = False
        # Answers of the batch's frames by their pair; only these are kept.
        self._kept: dict[int, Prediction | None] = {}
        self._alone: dict[str, Pair] = {}
        self._report = WorkReport()
        self._runs = False
        self._thread: threading.Thread | None = None

    def submit(self, pair: Pair | FusedFrame) -> None:
        """Offers a pair or a frame; where its name's places are taken, the oldest goes."""
        with self._ready:
            waiting = self._slots.setdefault(pair.name, deque())
            if len(waiting) == self._depth:
                self._give_up(waiting.popleft(), "replaced")
            waiting.append(pair)
            self._ready.notify_all()

    def start(self) -> bool:
        """Starts the thread once the one before it has ended.

        Returns:
            False when that one's pass goes on for `Patience.stop_s`; nothing has started then.
        """
        if self._thread is not None:
            self._thread.join(self._patience.stop_s)
            if self._thread.is_alive():
                return False
        self._runs = True
        self._capacity = self._largest
        self._thread = threading.Thread(target=self._run, name="segrgbx-worker", daemon=True)
        self._thread.start()
        return True

    def stop(self) -> bool:
        """Stops after the pass that runs now, drops what waits.

        Returns:
            False when the pass goes on for `Patience.stop_s`; its answer will be dropped.
        """
        self.clear()
        with self._ready:
            self._runs = False
            self._ready.notify_all()
        if self._thread is None:
            return True
        self._thread.join(self._patience.stop_s)
        return not self._thread.is_alive()

    def close(self) -> None:
        """Lets go of the model; after `stop`, for ever."""
        del self._predictor

    def clear(self) -> None:
        """Drops what waits and what is in a pass, then what the model keeps of streams.

        Nothing that was submitted before is delivered after.
        """
        with self._ready:
            for waiting in self._slots.values():
                for one in waiting:
                    self._give_up(one, "cleared")
            self._slots.clear()
            self._clearings += 1
            self._must_forget = True
            self._ready.wait_for(lambda: not self._delivers, _DELIVERY_S)

    def report(self) -> WorkReport:
        """What happened since the last call."""
        with self._ready:
            report, self._report = self._report, WorkReport()
        return report

    @property
    def capacity(self) -> int:
        """How many pairs share a pass at most; less after the memory did not suffice."""
        return self._capacity

    @property
    def is_alive(self) -> bool:
        """True while the thread runs, also after `stop` where its pass goes on."""
        return self._thread is not None and self._thread.is_alive()

    def trouble(self) -> str:
        """What is wrong with the thread itself, empty when nothing is."""
        if not self._runs:
            return ""
        if not self.is_alive:
            return "the worker has ended; deactivate and activate the node"
        began = self._began
        busy_s = 0.0 if began is None else time.monotonic() - began
        return (
            f"a pass has been running for {busy_s:.0f} s" if busy_s > self._patience.hung_s else ""
        )

    def _run(self) -> None:
        while (batch := self._take()) is not None:
            self._began = time.monotonic()
            self._run_batch(batch)
            self._began = None

    def _run_batch(self, batch: Sequence[Pair | FusedFrame]) -> None:
        frames = [one for one in batch if isinstance(one, FusedFrame)]
        alone = [one for one in batch if not isinstance(one, FusedFrame)]
        asked = [one for pair in alone if (one := self._decoded(pair)) is not None]
        members = [self._members(frame, asked) for frame in frames]
        size = max(1, self._capacity)
        for start in range(0, len(asked), size):
            self._ask(asked[start : start + size])
        for frame, read in zip(frames, members, strict=True):
            self._fuse(frame, read)
        self._kept.clear()

    def _members(self, frame: FusedFrame, asked: list[Decoded]) -> list[Member]:
        """Decodes a frame and adds its samples to what is asked, RGB alone where it is needed."""
        members, failure = self._tried(read_members, frame)
        if failure is not None or members is None:
            members = []
            for pair in frame.pairs:
                self._fail(pair, failure or _Failure("exception", ""))
        for member in members:
            if member.sample is not None:
                self._kept[id(member.pair)] = None
                asked.append((member.pair, member.sample))
            elif member.error is not None:
                cause = X_EMPTY if isinstance(member.error, EmptyXError) else "message"
                self._fail(member.pair, _Failure(cause, str(member.error)))
        usable = [member for member in members if member.is_usable]
        samples = [member.sample for member in members if member.sample is not None]
        needs_rgb = self.fuse_rule.asks_rgb(members)
        if needs_rgb and samples and not any(_is_black(member) for member in members):
            source = usable[0].pair if usable else members[0].pair
            alone = replace(source, name=frame.name, x=None)
            self._kept[id(alone)] = None
            self._alone[frame.name] = alone
            sample = usable[0].sample if usable else samples[0]
            assert sample is not None
            asked.append((alone, rgb_alone(sample)))
        return members

    def _fuse(self, frame: FusedFrame, members: Sequence[Member]) -> None:
        """Fuses the answers of a frame's members; one outcome is counted."""
        with self._ready:
            for member in members:
                if member.fault:
                    self._report.faults[member.pair.name, member.fault] += 1
            for name in frame.missing:
                self._report.faults[name, "late_or_dropped"] += 1
        alone = self._alone.pop(frame.name, None)
        black = next((one.pair for one in members if _is_black(one)), alone)
        rgb = None if black is None else self._kept.get(id(black))
        answered = [(one, self._kept.get(id(one.pair))) for one in members if one.is_usable]
        there = [(one, answer) for one, answer in answered if answer is not None]
        outcome = "too_few_members"
        if self.fuse_rule.is_fused(members):
            if len(there) < self.fuse_rule.min_members or (len(there) > 1 and rgb is None):
                outcome = "failed"
            else:
                used = [one for one, _ in there]
                answers = [answer for _, answer in there]
                rgb = rgb if len(there) > 1 else None
                outcome = self._publish_fused(frame, members, used[0], answers, rgb)
        elif self.fuse_rule.answers_rgb_alone and members:
            outcome = "failed"
            if rgb is not None:
                first = next((one for one in members if one.sample is not None), members[0])
                outcome = self._publish_fused(frame, members, first, [rgb], None)
                outcome = "rgb_only" if outcome == "published" else outcome
        with self._ready:
            is_stale = self._clearings > self._clearings_before
            self._report.fused[frame.name, "cleared" if is_stale else outcome] += 1

    def _publish_fused(
        self,
        frame: FusedFrame,
        members: Sequence[Member],
        first: Member,
        answers: Sequence[Prediction],
        rgb: Prediction | None,
    ) -> str:
        """Publishes a fused answer with the header of `first`; the outcome."""
        with self._ready:
            if self._clearings > self._clearings_before:
                return "cleared"
            self._delivers = True
        failure: _Failure | None = None
        answer, failure = self._tried(self._predictor.fuse, frame.name, answers, rgb)
        if answer is not None and self.deliver_fused is not None and first.sample is not None:
            _, failure = self._tried(self.deliver_fused, frame, first, answer, members)
        with self._ready:
            self._delivers = False
            self._ready.notify_all()
        if failure is not None:
            self._complain(first.pair.name, failure.cause, f"fuse.{frame.name}: {failure.text}")
            return "failed"
        return "published"

    def _give_up(self, one: Pair | FusedFrame, outcome: str) -> None:
        """Counts what waited and will not run; with the lock held."""
        number = 1
        if isinstance(one, FusedFrame):
            number = len(one.pairs)
            self._report.fused[one.name, outcome] += 1
        setattr(self._report, outcome, getattr(self._report, outcome) + number)

    def _num_waiting(self) -> int:
        """Names of pairs that wait or that a frame which waits does without."""
        return sum(_num_names(waiting[0]) for waiting in self._slots.values())

    def _take(self) -> list[Pair | FusedFrame] | None:
        """The next batch in order of arrival, None when stopped."""
        with self._ready:
            self._ready.wait_for(lambda: self._slots or not self._runs)
            if self._num_waiting() < self._capacity:
                self._ready.wait_for(
                    lambda: self._num_waiting() >= self._capacity or not self._runs,
                    self._max_wait_s,
                )
            if not self._runs:
                return None
            self._clearings_before = self._clearings
            batch: list[Pair | FusedFrame] = []
            room = self._capacity
            for name in list(self._slots):
                if batch and _num_names(self._slots[name][0]) > room:
                    break
                batch.append(self._next(name))
                room -= _num_names(batch[-1])
                if room <= 0:
                    break
            return batch

    def _next(self, name: str) -> Pair | FusedFrame:
        """The oldest pair of a name; if more wait, the name goes to the end of the line."""
        waiting = self._slots.pop(name)
        pair = waiting.popleft()
        if waiting:
            self._slots[name] = waiting
        return pair

    def _decoded(self, pair: Pair) -> Decoded | None:
        """Messages with their sample; None where there is none, which is counted."""
        sample, failure = self._tried(pair.sample)
        if failure is not None:
            self._fail(pair, failure)
        return None if sample is None else (pair, sample)

    def _ask(self, batch: Sequence[Decoded]) -> None:
        """One pass; where it fails, one for each pair, so that one bad sample harms no other."""
        if not batch or self._given_up(sum(pair not in self._alone.values() for pair, _ in batch)):
            return
        answers, failure = self._tried(self._predict, batch)
        for answer in answers or ():
            self._hand_out(*answer)
        if failure is None:
            return
        if failure.cause == OUT_OF_MEMORY:  # by now nothing holds what the pass had allocated
            self._tried(self._memory.release)  # not even that works once a device has a fault
        if len(batch) == 1:
            self._fail(batch[0][0], failure)
            return
        if failure.cause == OUT_OF_MEMORY:
            self._capacity = len(batch) - 1
        for one in batch:
            self._ask([one])

    def _predict(self, batch: Sequence[Decoded]) -> list[Answer]:
        if self._must_forget:
            self._must_forget = False
            self._predictor.forget()
        predictions = self._predictor.predict(
            [sample for _, sample in batch], [pair.name for pair, _ in batch]
        )
        with self._ready:
            self._report.batches += 1
            self._report.timings_ms.update(predictions[0].timings_ms)
        return [(*one, answer) for one, answer in zip(batch, predictions, strict=True)]

    def _hand_out(self, pair: Pair, sample: RgbxSample, answer: Prediction) -> None:
        if id(pair) in self._kept:
            self._kept[id(pair)] = answer
        if pair in self._alone.values():
            return
        with self._ready:
            if self._given_up():
                return
            self._delivers = True
        _, failure = self._tried(self._deliver, pair, sample, answer)
        with self._ready:
            self._delivers = False
            self._ready.notify_all()
            if failure is None:
                self._report.answered += 1
                waited_ns = time.time_ns() - pair.arrival_ns
                self._report.latencies_ms.append(waited_ns / NS_PER_MS)
        if failure is not None:
            self._fail(pair, failure)

    def _fail(self, pair: Pair, failure: _Failure) -> None:
        if pair in self._alone.values():  # the frame is counted
            return
        with self._ready:
            if self._given_up():
                return
            self._report.failed[failure.cause] += 1
        self._complain(pair.name, failure.cause, failure.text)

    def _given_up(self, number: int = 1) -> bool:
        """Counts so many pairs as cleared, where all was cleared since the batch was taken."""
        with self._ready:
            is_stale = self._clearings > self._clearings_before
            self._report.cleared += number * is_stale
        return is_stale

    def _tried(self, step: Callable[..., T], *arguments: Any) -> tuple[T | None, _Failure | None]:
        """What a step returns, or why it failed."""
        try:
            return step(*arguments), None
        except EmptyXError as error:
            return None, _Failure(X_EMPTY, str(error))
        except ModelOutputError as error:
            return None, _Failure("not_finite", str(error))
        except SegrgbxError as error:
            return None, _Failure("message", str(error))
        except Exception as error:  # the outermost frame: the node outlives any failure of a pass
            text = f"{type(error).__name__}: {error}"
            if self._memory.is_exhausted(error):
                with self._ready:
                    self._report.exhausted += 1
                return None, _Failure(OUT_OF_MEMORY, text)
            return None, _Failure("exception", f"{text}\n{traceback.format_exc()}")
