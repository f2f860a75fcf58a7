"""Three pairs of three modalities in one process: right answers to the right pair, fair turns."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed")
pytestmark = pytest.mark.ros

from node_rig import HEIGHT, WIDTH, ask, header, x_image  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402

from segrgbx_core.base.modality import Modality  # noqa: E402
from segrgbx_core.base.samples import RgbxSample  # noqa: E402
from segrgbx_core.runtime.segmenter import InferenceConfig, Segmenter  # noqa: E402
from segrgbx_ros.config.node import BatchConfig  # noqa: E402
from segrgbx_ros.messages.images import fill_image, image_array  # noqa: E402
from segrgbx_ros.node.worker import Worker  # noqa: E402

PAIRS = ["thermal", "depth", "polarization"]
SIZE = {"model.input_height": 64, "model.input_width": 64}


def x_of(pair):
    if pair == "thermal":
        return np.arange(28000, 28720, dtype=np.uint16).reshape(24, 30), "16UC1"
    if pair == "depth":
        return np.linspace(1, 40, 720, dtype=np.float32).reshape(24, 30), "32FC1"
    return (np.arange(720) % 251).astype(np.uint8).reshape(24, 30), "mono8"


def rgb_of(pair):
    value = 60 * PAIRS.index(pair) + 20
    pixels = np.full((HEIGHT + 16 * PAIRS.index(pair), WIDTH, 3), value, np.uint8)
    pixels[:: 2 + PAIRS.index(pair)] = 255 - value
    return pixels


def test_each_pair_gets_its_own_answer(rig, checkpoint):
    one = rig(pairs=PAIRS, **SIZE, **{"batch.max_wait_ms": 100.0})
    batches = []
    segmenter = one.node.runtime.segmenter
    predict = segmenter.predict
    segmenter.predict = lambda samples, *more: (
        batches.append(len(samples)) or predict(samples, *more)
    )
    heard = {pair: one.hear(f"{pair}/confidence") for pair in PAIRS}
    for _ in range(4):
        for pair in PAIRS:
            rgb = fill_image(Image(), rgb_of(pair), "rgb8")
            ask(one, pair, rgb, x_image(0, *x_of(pair)))
        one.pump(0.3)
    one.until(lambda: all(heard.values()))
    single = Segmenter.from_checkpoint(
        checkpoint, InferenceConfig(input_height=64, input_width=64)
    )
    for pair in PAIRS:
        x, _ = x_of(pair)
        (alone,) = single.predict([RgbxSample(rgb_of(pair), x, Modality(pair))])
        for message in heard[pair]:
            confidence = image_array(message).astype(int)
            assert confidence.shape == alone.confidence.shape
            assert np.abs(confidence - alone.confidence).max() <= 1, "batches round differently"
    assert max(batches) > 1, "pairs share passes"


class Gated:
    """A model that begins a pass only when it may, and remembers whom it served."""

    def __init__(self):
        self.served = []
        self.may, self.done = threading.Semaphore(0), threading.Semaphore(0)

    def predict(self, samples, streams):
        self.may.acquire()
        self.served.append([sample.name for sample in samples])
        self.done.release()
        return [SimpleNamespace(timings_ms={}) for _ in samples]


@pytest.mark.parametrize("max_size", [1, 2, 4])
def test_a_fast_pair_does_not_starve_slow_ones(max_size):
    """The fast pair has a new frame in every pass, the slow ones in every fifth."""
    model, turns, asked = Gated(), 40, []
    batch = BatchConfig(max_size=max_size, max_wait_ms=0.0)
    worker = Worker(model, batch, 3, lambda *_: None, lambda *_: None)
    worker.start()
    try:
        for turn in range(turns):
            worker.submit(offered("fast"))
            if turn % 5 == 0:
                for pair in ("slow", "slower"):
                    worker.submit(offered(pair))
                    asked.append((pair, turn))
            model.may.release()
            assert model.done.acquire(timeout=10)
    finally:
        model.may.release(turns)
        worker.stop()
    for pair, turn in asked:
        soon = model.served[turn : turn + 4]
        assert any(pair in served for served in soon), "whoever came first goes first"
    assert sum("fast" in served for served in model.served) >= turns - len(asked)


def offered(pair):
    message = SimpleNamespace(name=pair, arrival_ns=0)
    message.sample = lambda: message
    return message


def test_pairs_are_served_in_the_order_in_which_they_became_ready():
    model = Gated()
    batch = BatchConfig(max_size=2, max_wait_ms=0.0)
    worker = Worker(model, batch, 4, lambda *_: None, lambda *_: None)
    for pair in ("a", "b", "c", "a", "d", "b"):
        worker.submit(offered(pair))
    model.may.release(2)
    worker.start()
    for _ in range(2):
        assert model.done.acquire(timeout=10)
    worker.stop()
    assert model.served == [["a", "b"], ["c", "d"]]
    assert worker.report().replaced == 2


def test_one_rgb_camera_may_serve_all_pairs(rig):
    remaps = [f"{pair}/rgb/image:=camera" for pair in PAIRS]
    one = rig(remaps=remaps, pairs=PAIRS, **SIZE)
    masks = {pair: one.hear(f"{pair}/mask") for pair in PAIRS}
    rgb = header(fill_image(Image(), rgb_of("thermal"), "rgb8"), 1)
    for pair in PAIRS:
        one.say(f"{pair}/x/image", x_image(1, *x_of(pair)))
    one.say("camera", rgb)
    one.until(lambda: all(masks.values()))
    assert all(heard[0].header == rgb.header for heard in masks.values())
