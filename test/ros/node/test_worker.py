"""The worker's thread gives every pair one outcome, whatever fails; no DDS needed."""

import threading
import time
from collections import Counter
from types import SimpleNamespace

import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")
pytestmark = pytest.mark.ros

from segrgbx_core.base.errors import EncodingError  # noqa: E402
from segrgbx_core.base.samples import Prediction  # noqa: E402
from segrgbx_ros.config.node import BatchConfig  # noqa: E402
from segrgbx_ros.node.health.streams import Patience  # noqa: E402
from segrgbx_ros.node.outputs import DebugOutputs  # noqa: E402
from segrgbx_ros.node.worker import Memory, Worker, WorkReport  # noqa: E402

NAMES = ("a", "b", "c")


def failing(error):
    def sample():
        raise error

    return sample


def offered(pair, error=None):
    message = SimpleNamespace(name=pair, arrival_ns=time.time_ns())
    message.sample = (lambda: message) if error is None else failing(error)
    return message


class Bench:
    """A worker with a model that does what it is told; notes deliveries and complaints.

    Args:
        predict: called with the names of a pass before it answers; may raise.
        deliver: called with the name of a pair that goes out; may raise.
    """

    def __init__(
        self, predict=lambda names: None, deliver=lambda name: None, memory=None, stop_s=2.0
    ):
        self.passes, self.published, self.complaints = [], [], []
        self._told, self._on_delivery = predict, deliver
        batch = BatchConfig(max_size=4, max_wait_ms=0.0)
        self.worker = Worker(
            self, batch, 4, self.deliver, self.complain, memory, patience=Patience(stop_s=stop_s)
        )
        self.total = WorkReport()

    def predict(self, samples, streams):
        self.passes.append("".join(streams))
        self._told(streams)
        return [SimpleNamespace(timings_ms={"model": 1.0}) for _ in samples]

    def forget(self):
        self.passes.append("forget")

    def deliver(self, paired, *_):
        self._on_delivery(paired.name)
        self.published.append(paired.name)

    def complain(self, pair, cause, _text):
        self.complaints.append((pair, cause))

    def decided(self):
        self.total.add(self.worker.report())
        return self.total.answered + self.total.cleared + sum(self.total.failed.values())

    def until_decided(self, number):
        until(lambda: self.decided() >= number)
        assert self.decided() == number, self.total

    def run(self, *pairs):
        """All pairs share the first pass."""
        for paired in pairs:
            self.worker.submit(paired)
        self.worker.start()
        self.until_decided(len(pairs))
        assert self.worker.stop()
        assert self.decided() == len(pairs), "each pair has one outcome"
        return self.total


def until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def raises_for(name, error):
    def told(names):
        if name in names:
            raise error

    return told


def raises_for_many(error):
    def told(names):
        if len(names) > 1:
            raise error

    return told


@pytest.mark.parametrize("error", [ZeroDivisionError("x"), EncodingError("x")])
def test_a_pair_that_fails_in_the_pass_harms_no_other(error):
    bench = Bench(raises_for("b", error))
    report = bench.run(offered("a", EncodingError("bad")), offered("b"), offered("c"))
    cause = "message" if isinstance(error, EncodingError) else "exception"
    assert report.failed == Counter(["message", cause])
    assert bench.complaints == [("a", "message"), ("b", cause)]
    assert (report.answered, bench.published) == (1, ["c"])


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (EncodingError("bad"), "message"),
        (TypeError("odd"), "exception"),
        (MemoryError(), "out_of_memory"),
    ],
)
def test_a_message_that_cannot_be_decoded_harms_no_other(error, cause):
    bench = Bench()
    report = bench.run(offered("a"), offered("b", error), offered("c"))
    assert report.failed == {cause: 1}
    assert (report.answered, bench.published, bench.passes) == (2, ["a", "c"], ["ac"])


def test_a_bad_message_counts_once_where_the_pass_is_repeated():
    bench = Bench(raises_for_many(MemoryError()))
    report = bench.run(offered("a", EncodingError("bad")), offered("b"), offered("c"))
    assert bench.passes == ["bc", "b", "c"]
    assert report.failed == {"message": 1}
    assert (report.answered, report.exhausted, bench.worker.capacity) == (2, 1, 1)


def test_no_answer_goes_out_twice_where_several_things_fail():
    def told(names):
        if len(names) > 1:
            raise EncodingError("one of them")
        if names == ["b"]:
            raise MemoryError

    bench = Bench(told)
    report = bench.run(*map(offered, NAMES))
    assert bench.passes == ["abc", "a", "b", "c"]
    assert bench.published == ["a", "c"]
    assert report.failed == {"out_of_memory": 1}


def test_an_answer_that_cannot_be_published_harms_no_other():
    bench = Bench(deliver=raises_for("b", RuntimeError("publisher is gone")))
    report = bench.run(*map(offered, NAMES))
    assert bench.published == ["a", "c"]
    assert bench.passes == ["abc"]
    assert (report.answered, report.failed) == (2, {"exception": 1})
    assert len(report.latencies_ms) == 2
    assert (report.batches, report.timings_ms["model"]) == (1, 1.0)


def test_memory_that_cannot_be_released_ends_nothing():
    def release():
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    memory = Memory(release=release)
    bench = Bench(raises_for("a", MemoryError()), memory=memory)
    report = bench.run(offered("a"), offered("b"))
    assert bench.published == ["b"]
    assert report.failed == {"out_of_memory": 1}


class Gate:
    """Holds the worker's thread in a step until `opened`."""

    def __init__(self):
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self, _):
        self.reached.set()
        assert self.opened.wait(10)


@pytest.fixture
def gate():
    made = Gate()
    yield made
    made.opened.set()


@pytest.mark.parametrize("stops", [False, True])
def test_what_is_in_a_pass_is_dropped_when_all_is_cleared(gate, stops):
    bench = Bench(gate, stop_s=0.01)
    for name in NAMES:
        bench.worker.submit(offered(name))
    bench.worker.start()
    assert gate.reached.wait(10)
    bench.worker.submit(offered("waits"))
    if stops:
        assert not bench.worker.stop()
    else:
        bench.worker.clear()
    gate.opened.set()
    bench.until_decided(4)
    assert (bench.total.cleared, bench.total.answered, bench.published) == (4, 0, [])
    if stops:
        until(bench.worker.start)
    bench.worker.submit(offered("later"))
    bench.until_decided(5)
    assert bench.published == ["later"]
    assert bench.passes == ["abc", "forget", "later"]


def test_a_failure_after_all_was_cleared_is_neither_repeated_nor_complained_about(gate):
    def told(names):
        gate(names)
        raise ZeroDivisionError

    bench = Bench(told)
    for name in NAMES:
        bench.worker.submit(offered(name))
    bench.worker.start()
    assert gate.reached.wait(10)
    bench.worker.clear()
    gate.opened.set()
    bench.until_decided(3)
    assert (bench.total.cleared, bench.passes, bench.complaints) == (3, ["abc"], [])


def test_clearing_waits_for_a_publication_that_has_begun():
    reached = threading.Event()

    def deliver(_):
        reached.set()
        time.sleep(0.1)

    bench = Bench(deliver=deliver)
    bench.worker.submit(offered("a"))
    bench.worker.submit(offered("b"))
    bench.worker.start()
    assert reached.wait(10)
    bench.worker.clear()
    assert bench.published == ["a"], "what has begun is out, and nothing comes after"
    bench.until_decided(2)
    assert (bench.published, bench.total.cleared) == (["a"], 1)


def test_the_thread_does_not_start_beside_one_that_hangs(gate):
    bench = Bench(gate, stop_s=0.01)
    bench.worker.submit(offered("a"))
    bench.worker.start()
    assert gate.reached.wait(10)
    assert not bench.worker.stop()
    began = time.monotonic()
    assert not bench.worker.start()
    assert time.monotonic() - began < 5
    assert bench.worker.is_alive
    gate.opened.set()
    until(bench.worker.start)
    bench.worker.submit(offered("b"))
    until(lambda: bench.published == ["b"])
    until(bench.worker.stop)
    assert not bench.worker.is_alive


class Publisher:
    """As rclpy's: nobody may destroy it while it publishes."""

    def __init__(self):
        self.is_alive = True

    def publish(self, _message):
        time.sleep(0.001)
        assert self.is_alive


def test_debug_topics_may_be_switched_off_while_the_worker_publishes():
    clock = SimpleNamespace(now=lambda: SimpleNamespace(nanoseconds=0))
    node = SimpleNamespace(
        get_clock=lambda: clock,
        create_publisher=lambda *_: Publisher(),
        destroy_publisher=lambda publisher: setattr(publisher, "is_alive", False),
    )
    debug = DebugOutputs(node, True)
    paired = SimpleNamespace(arrival_ns=0, rgb_stamp_ns=0, dt_ns=None)
    answer = Prediction(None, None, None, None, 0, "", {"encode": 1.0})
    done, survived = threading.Event(), threading.Event()

    def work():
        while not done.is_set():
            debug.publish(paired, answer)
        survived.set()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    for number in range(20):
        time.sleep(0.003)
        debug.switch(number % 2 == 1)
    done.set()
    thread.join()
    assert survived.is_set()
