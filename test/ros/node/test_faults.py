"""What goes wrong on a vehicle, done to the live node over real DDS.

After every fault: no crash, the cause in /diagnostics, nothing piled up, and within 30 frames (one
second at 30 Hz) masks that equal, bit for bit, what the model answers to that very frame.
"""

import re
import time

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed")
pytestmark = pytest.mark.ros

import torch  # noqa: E402
from made_messages import stamped  # noqa: E402
from node_rig import BEST_EFFORT, HEIGHT, LATCHED, WIDTH  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402

from segrgbx_core.base.modality import Modality  # noqa: E402
from segrgbx_core.base.samples import RgbxSample  # noqa: E402
from segrgbx_core.runtime.segmenter import InferenceConfig, Segmenter  # noqa: E402
from segrgbx_ros.messages.images import fill_image, image_array  # noqa: E402
from segrgbx_ros.node.health.streams import Patience  # noqa: E402

MS = 1_000_000
START = 1_700_000_000_000 * MS
STEP = 33 * MS
NUMBER = 8
"""Different frames; they repeat."""
LAP = 13_636 * NUMBER * STEP
"""About an hour."""
SIDE = 64
"""Of the network's input: a pass must be faster than a frame on a busy machine."""


@pytest.fixture(scope="module")
def answers(checkpoint):
    """Frames, and what the model says to each."""
    rng = np.random.default_rng(7)
    config = InferenceConfig(input_height=SIDE, input_width=SIDE)
    segmenter = Segmenter.from_checkpoint(checkpoint, config, merge_for=Modality.THERMAL)
    frames = []
    for _ in range(NUMBER):
        rgb = np.ascontiguousarray(
            np.repeat(rng.integers(0, 255, (HEIGHT, 4, 3), np.uint8), WIDTH // 4, axis=1)
        )
        x = rng.integers(28000, 31000, (24, 30)).astype(np.uint16)
        (answer,) = segmenter.predict([RgbxSample(rgb, x, Modality.THERMAL)])
        frames.append((rgb, x, answer.confidence.tobytes()))
    assert len({answer for *_, answer in frames}) == NUMBER, "frames must be told apart"
    return frames


class Vehicle:
    """Two cameras on a rig with a node; sends numbered frames and judges what comes back."""

    def __init__(self, rig, frames, **parameters):
        self.rig = rig(**parameters)
        self.frames = frames
        self.confidences = self.rig.hear("thermal/confidence")
        self.x_ratio, self.x_shift_ms, self.jump_ns = 1, 0, 0
        self._next = 0
        self.run(3)

    def send(self, index, rgb=True, x=True):
        stamp = START + self.jump_ns + index * STEP
        picture, counts, _ = self.frames[index % NUMBER]
        if x and index % self.x_ratio == 0:
            self.say("x", counts, "16UC1", stamp + self.x_shift_ms * MS)
        if rgb:
            self.say("rgb", picture, "rgb8", stamp)

    def say(self, stream, pixels, encoding, stamp, spoil=lambda message: None):
        message = stamped(fill_image(Image(), pixels, encoding), stamp, stream)
        spoil(message)
        self.rig.say(f"thermal/{stream}/image", message)

    def run(self, number, **streams):
        """Sends frames at about 30 Hz."""
        first = self._next
        for _ in range(number):
            self.send(self._next, **streams)
            self._next += 1
            self.rig.pump(STEP / 1e9)
        return first

    def right(self, since, first=0):
        """Frames with a right answer since a number of answers; a wrong one fails."""
        found = []
        for message in self.confidences[since:]:
            header = message.header
            stamp = header.stamp.sec * 1000 * MS + header.stamp.nanosec
            index = (stamp - START - self.jump_ns) // STEP
            if index < first or index > self._next:
                continue
            expected = self.frames[index % NUMBER][2]
            assert image_array(message).tobytes() == expected, f"frame {index} is wrong"
            found.append(index)
        return found

    def settled(self):
        """Waits until nothing waits any more."""
        worker = self.rig.node.runtime._worker
        self.rig.pump(0.1)
        self.rig.until(lambda: not worker._slots and worker._began is None)
        self.rig.pump(0.1)

    def recovers(self):
        """Within a second: right answers again, nothing piled up, diagnostics without errors."""
        since = len(self.confidences)
        first = self.run(5)
        self.rig.pump(0.1)
        for _ in range(25):
            if self.right(since, first):
                break
            self.run(1)
        else:
            pytest.fail(f"nothing within 30 frames; {self.rig.report()}")
        for _ in range(60):
            if all(level < 2 for level, *_ in self.rig.report().values()):
                break
            self.run(1)
        else:
            pytest.fail(f"still complains: {self.rig.report()}")
        runtime = self.rig.node.runtime
        aligner = runtime._pipeline["thermal"]._aligner
        assert aligner.num_waiting <= 4
        assert aligner.num_unused_x <= aligner.config.queue_size
        assert len(runtime._worker._slots) <= 1

    def until_says(self, name, text, level=2, **streams):
        """Goes on sending until a status says this; the level is the least one."""
        end = time.monotonic() + 10
        while not self.says(name, text, level):
            assert time.monotonic() < end, self.rig.report()
            self.run(1, **streams)

    def says(self, name, text, level):
        found = self.rig.report().get(name)
        pattern = text if isinstance(text, re.Pattern) else re.compile(re.escape(text))
        return found is not None and found[0] >= level and pattern.search(found[1]) is not None

    def values(self, name):
        return self.rig.report()[name][2]


@pytest.fixture
def drive(rig, answers):
    settings = {
        "model.input_height": SIDE,
        "model.input_width": SIDE,
        "patience": Patience(quiet_s=0.4, hung_s=0.8),
    }
    return lambda **parameters: Vehicle(rig, answers, **settings, **parameters)


@pytest.mark.parametrize(("dead", "other"), [("x", "rgb"), ("rgb", "x")])
def test_a_stream_dies_and_returns(drive, dead, other):
    one = drive()
    one.run(40, **{dead: False})  # more than a queue holds
    one.until_says("thermal input", f"thermal/{dead}/image' has been silent", **{dead: False})
    one.until_says("thermal sync", "an input is silent", **{dead: False})
    assert f"{other}/image' has been silent" not in one.rig.report()["thermal input"][1]
    one.recovers()


@pytest.mark.parametrize("policy", ["rgb_only", "hold_last"])
def test_fallbacks_are_named_while_x_is_gone(drive, policy):
    one = drive(**{"sync.on_missing_x": policy, "sync.max_hold_ms": 2000.0})
    words = "without X" if policy == "rgb_only" else "with an older X"
    one.until_says("thermal sync", re.compile(f"[1-9]\\d* {words}"), 1, x=False)
    heard = len(one.confidences)
    one.run(5, x=False)
    assert len(one.confidences) > heard
    one.rig.pump(0.2)
    one.recovers()


def test_x_at_a_third_of_the_rate(drive):
    one = drive(**{"sync.wait_ms": 300.0})
    one.x_ratio = 3
    wanted = int(one.values("thermal sync")["pairs"]) + 14
    one.run(15)  # each but the last RGB has an X within 50 ms
    one.rig.until(lambda: int(one.values("thermal sync")["pairs"]) >= wanted)
    one.x_ratio = 1
    one.recovers()


def test_a_constant_offset_is_named_and_cured_while_the_node_runs(drive):
    one = drive()
    one.x_shift_ms = 200
    one.until_says("thermal sync", "stamps of X run +200 ms ahead", 1)
    result = one.rig.node.set_parameters([Parameter("thermal.x_offset_ms", value=200.0)])
    assert result[0].successful
    one.recovers()


def test_stamps_out_of_order_and_twice(drive):
    one = drive()
    heard = len(one.confidences)
    for index in (20, 22, 21, 21, 23, 22, 25, 24, 26):
        one.send(index, rgb=False)
        one.rig.pump(0.03)
        one.send(index, x=False)
        one.settled()
    one._next = 27
    one.rig.until(lambda: int(one.values("thermal sync").get("dropped_duplicate", 0)) >= 2)
    seen = one.right(heard)
    assert len(seen) == len(set(seen)), "no stamp is answered twice"
    assert set(seen) >= {20, 21, 22, 23, 26}
    one.recovers()


@pytest.mark.parametrize("jump_ns", [-LAP, LAP])
def test_time_jumps(drive, jump_ns):
    one = drive()
    one.jump_ns = jump_ns
    one.recovers()
    if jump_ns < 0:
        assert int(one.values("thermal sync")["jumps_back"]) >= 1


def test_a_looped_recording(drive):
    one = drive()
    one.run(20)  # long enough for its end to be a jump back
    for _ in range(3):
        one.rig.pump(0.3)
        one._next = 0
        before = int(one.values("thermal sync")["pairs"])
        one.run(20)
        wanted = before + 18
        one.rig.until(lambda wanted=wanted: int(one.values("thermal sync")["pairs"]) >= wanted)
    one.recovers()


def test_one_stamp_from_the_future(drive):
    one = drive()
    for stream, pixels, encoding in (
        ("x", one.frames[0][1], "16UC1"),
        ("rgb", one.frames[0][0], "rgb8"),
    ):
        one.say(stream, pixels, encoding, START + 10**18)
        one.recovers()


def _cut(message):
    message.data = message.data[: len(message.data) // 2]


def _empty(message):
    message.height = message.width = 0


def _narrow(message):
    message.step = 1


def _name(message):
    message.encoding = "yuv999"


def _huge(message):
    message.height = message.width = 2**31


@pytest.mark.parametrize("stream", ["x", "rgb"])
def test_one_message_in_ten_is_corrupt(drive, stream):
    one = drive()
    complaints = ("needs", "size 0x0 px", "step 1", "'yuv999'", f"size {2**31}x{2**31} px")
    for spoil, complaint in zip((_cut, _empty, _narrow, _name, _huge), complaints, strict=True):
        index = one._next
        one._next += 1
        one.send(index, **{stream: False})
        pixels, encoding = one.frames[0][stream == "x"], {"x": "16UC1", "rgb": "rgb8"}[stream]
        one.say(stream, pixels, encoding, START + index * STEP, spoil)
        end = time.monotonic() + 5
        while not one.says("thermal input", complaint, 2):
            assert time.monotonic() < end, one.rig.report()
            one.rig.pump(0.02)
        one.run(9)
    one.recovers()
    assert int(one.values("thermal input")["bad_message"]) == 5


def test_the_resolution_changes_in_flight(drive, answers):
    one = drive()
    masks = one.rig.hear("thermal/mask")
    for height, width in ((96, 128), (33, 47), (HEIGHT, WIDTH)):
        stamp = START + one._next * STEP
        one._next += 1
        counts = np.add.outer(np.arange(height), np.arange(height)).astype(np.uint16)
        one.say("x", counts + 29000, "16UC1", stamp)
        one.say("rgb", np.zeros((height, width, 3), np.uint8), "rgb8", stamp)
        size = (height, width)
        one.rig.until(lambda size=size: masks and (masks[-1].height, masks[-1].width) == size)
    one.confidences.clear()
    one.recovers()


def test_quality_of_service_that_does_not_match_names_both_sides(drive):
    one = drive(**{"qos.input_reliability": "reliable"})
    other = one.rig.tester.create_publisher(Image, "thermal/x/image", BEST_EFFORT)
    one.until_says(
        "thermal input",
        f"publisher '{one.rig.namespace}/tester' offers BEST_EFFORT, this node requests RELIABLE",
    )
    one.rig.tester.destroy_publisher(other)
    late = one.rig.tester.create_subscription(Image, "thermal/mask", print, LATCHED)
    name = f"{one.rig.namespace}/thermal/mask output"
    one.until_says(name, "/tester' requests TRANSIENT_LOCAL, this node offers VOLATILE")
    one.rig.tester.destroy_subscription(late)
    one.recovers()


def test_an_unknown_encoding_is_named_with_what_is_allowed(drive):
    one = drive()
    stamp = START + one._next * STEP
    one._next += 1
    one.say("x", np.zeros((4, 4, 2), np.uint8), "8UC2", stamp)
    one.say("rgb", one.frames[0][0], "rgb8", stamp)
    one.rig.until(lambda: one.says("thermal input", "'8UC2' is not supported here; use mono8", 2))
    one.recovers()


def test_exceptions_in_the_pass_and_in_a_callback(drive, monkeypatch):
    one = drive()
    runtime = one.rig.node.runtime
    for target, name in ((runtime.segmenter, "predict"), (runtime._pipeline, "push_message")):
        with monkeypatch.context() as patch:
            patch.setattr(target, name, lambda *_: 1 // 0)
            one.until_says("thermal input", "ZeroDivisionError")
        one.recovers()
    assert int(one.values("inference")["failed_exception"]) >= 1


def test_the_device_runs_out_of_memory(drive, monkeypatch):
    one = drive()
    released = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: released.append(1))

    def exhausted(*_):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    with monkeypatch.context() as patch:
        patch.setattr(one.rig.node.runtime.segmenter, "predict", exhausted)
        one.until_says("inference", "out_of_memory")
    monkeypatch.undo()
    one.recovers()
    assert int(one.values("inference")["failed_out_of_memory"]) >= len(released) >= 1


def test_a_batch_that_does_not_fit_runs_in_smaller_ones(rig, monkeypatch):
    one = rig(**{"pairs": ["thermal", "back"], "back.modality": "thermal"})
    segmenter = one.node.runtime.segmenter
    predict, sizes = segmenter.predict, []

    def small_only(samples, *more):
        sizes.append(len(samples))
        if len(samples) > 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return predict(samples, *more)

    monkeypatch.setattr(segmenter, "predict", small_only)
    worker = one.node.runtime._worker
    monkeypatch.setattr(worker, "_max_wait_s", 2.0)
    masks = [one.hear(f"{pair}/mask") for pair in ("thermal", "back")]
    from node_rig import ask

    ask(one)
    ask(one, "back")
    one.until(lambda: all(masks))
    assert sizes == [2, 1, 1]
    assert worker.capacity == 1
    one.until(lambda: one.report()["inference"][2].get("batch_max") == "1")


def test_a_pass_that_hangs_is_reported(drive, monkeypatch):
    one = drive()
    segmenter = one.rig.node.runtime.segmenter
    predict = segmenter.predict
    slow = [2.0]

    def hang(samples, *more):
        if slow:
            time.sleep(slow.pop())
        return predict(samples, *more)

    monkeypatch.setattr(segmenter, "predict", hang)
    one.until_says("inference", "a pass has been running")
    one.recovers()
