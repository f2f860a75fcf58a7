"""Pairs and samples without ROS, and the one worker on top of them."""

import threading
import time
from array import array
from types import SimpleNamespace

import numpy as np
import pytest
from made_messages import image

from segrgbx_core.base.errors import EncodingError
from segrgbx_core.base.modality import Modality
from segrgbx_core.base.samples import Prediction, XForm
from segrgbx_core.sensors import EncodingConfig
from segrgbx_ros.config.node import BatchConfig, Stream, node_config
from segrgbx_ros.node.health.streams import Patience
from segrgbx_ros.node.worker import Worker
from segrgbx_ros.pairing.pipeline import EmptyXError, Pipeline

MS = 1_000_000
START = 1_700_000_000_000 * MS


def message(pixels, encoding, stamp_ms, frame="camera"):
    stamp_ns = START + round(stamp_ms * MS) if stamp_ms is not None else 0
    return image(pixels, encoding, stamp_ns, frame)


def rgb(stamp_ms, height=8, width=10):
    return message(textured((height, width, 3), np.uint8), "rgb8", stamp_ms)


def textured(shape, dtype, first=0, step=7):
    """An image that shows something."""
    return (first + step * np.arange(np.prod(shape))).reshape(shape).astype(dtype)


def thermal(stamp_ms):
    return message(textured((4, 5), np.uint16, 29315), "16UC1", stamp_ms, "thermal")


def pipeline_of(**values):
    return Pipeline(node_config(values), EncodingConfig())


def test_a_pair_becomes_a_sample_in_sensor_units():
    pipeline = pipeline_of()
    assert pipeline.push_message("thermal", Stream.RGB, rgb(0), 5) == []
    (paired,) = pipeline.push_message("thermal", Stream.X, thermal(3), 9)
    assert (paired.rgb_stamp_ns, paired.dt_ns, paired.arrival_ns) == (START, 3 * MS, 5)
    sample = paired.sample()
    assert sample.rgb.shape == (8, 10, 3)
    assert sample.x.dtype == np.uint16
    assert sample.x.shape == (4, 5), "X keeps its own resolution"
    assert (sample.modality, sample.stamp_ns, sample.frame_id) == (
        Modality.THERMAL,
        START,
        "camera",
    )
    assert sample.x_form is XForm.RAW
    assert pipeline["thermal"].counts.matched == 1


def test_the_pairs_offset_is_removed():
    pipeline = pipeline_of(**{"thermal.x_offset_ms": 80, "sync.max_dt_ms": 10})
    pipeline.push_message("thermal", Stream.RGB, rgb(0), 0)
    (paired,) = pipeline.push_message("thermal", Stream.X, thermal(85), 0)
    assert paired.dt_ns == 5 * MS


def test_offset_and_limits_may_change_while_it_runs():
    pipeline = pipeline_of()
    pipeline.configure(node_config({"sync.max_dt_ms": 1}))
    pipeline.push_message("thermal", Stream.RGB, rgb(0), 0)
    assert pipeline.push_message("thermal", Stream.X, thermal(5), 0) == []
    assert pipeline["thermal"].counts.dropped == {"too_far": 1}


def test_missing_x_is_dropped_or_rgb_goes_alone():
    dropping = pipeline_of()
    dropping.push_message("thermal", Stream.RGB, rgb(0), 0)
    assert dropping.next_deadline_ns() is not None
    assert dropping.poll(41 * MS) == []
    assert dropping["thermal"].counts.dropped == {"no_x": 1}
    alone = pipeline_of(**{"sync.on_missing_x": "rgb_only"})
    alone.push_message("thermal", Stream.RGB, rgb(0), 0)
    (paired,) = alone.poll(41 * MS)
    assert paired.x is None
    sample = paired.sample()
    assert sample.x_form is XForm.IMAGE
    assert not sample.x.any()


def test_zero_stamps_are_counted_and_pair_with_nothing():
    pipeline = pipeline_of()
    assert pipeline.push_message("thermal", Stream.RGB, rgb(None), 0) == []
    assert pipeline.push_message("thermal", Stream.X, thermal(None), 0) == []
    assert pipeline["thermal"].counts.dropped == {"zero_stamp": 1}


def test_flush_resolves_what_waits_and_clear_forgets_it():
    pipeline = pipeline_of()
    pipeline.push_message("thermal", Stream.X, thermal(-5), 0)
    pipeline.push_message("thermal", Stream.RGB, rgb(0), 0)
    assert len(pipeline.flush()) == 1
    pipeline.push_message("thermal", Stream.RGB, rgb(100), 0)
    pipeline.clear()
    assert pipeline.flush() == []


def test_pairs_do_not_mix():
    pipeline = pipeline_of(pairs=["thermal", "front"], front={"modality": "depth"})
    pipeline.push_message("thermal", Stream.RGB, rgb(0), 0)
    assert pipeline.push_message("front", Stream.X, thermal(0), 0) == []
    (paired,) = pipeline.push_message("front", Stream.RGB, rgb(0), 0)
    assert paired.name == "front"
    assert paired.sample().modality is Modality.DEPTH


@pytest.mark.parametrize(
    ("modality", "encoding", "works"),
    [
        ("thermal", "mono8", True),
        ("thermal", "32FC1", True),
        ("thermal", "rgb8", False),
        ("depth", "16UC1", True),
        ("depth", "mono16", True),
        ("depth", "mono8", False),
        ("polarization", "mono8", True),
        ("polarization", "bayer_rggb8", True),
        ("polarization", "8UC4", True),
        ("polarization", "32FC1", False),
        ("light_field", "rgb8", True),
        ("light_field", "16UC1", False),
    ],
)
def test_encodings_must_make_sense_for_the_modality(modality, encoding, works):
    shapes = {"rgb8": (4, 4, 3), "8UC4": (4, 4, 4)}
    dtype = {"3": np.float32, "1": np.uint16}.get(encoding[0], np.uint8)
    dtype = np.uint16 if encoding == "mono16" else dtype
    layout = "channels4" if encoding == "8UC4" else "mosaic"
    pipeline = pipeline_of(pairs=[modality], **{"sensor.polarization.layout": layout})
    pipeline.push_message(modality, Stream.RGB, rgb(0), 0)
    first = 0 if dtype == np.uint8 else 2000
    x = message(textured(shapes.get(encoding, (4, 4)), dtype, first), encoding, 0)
    (paired,) = pipeline.push_message(modality, Stream.X, x, 0)
    if works:
        is_mosaic = encoding.startswith("bayer")
        assert paired.sample().x.ndim == (2 if is_mosaic else len(shapes.get(encoding, (4, 4))))
        return
    complaint = (
        rf"topic '{modality}/x/image' \({modality}\): encoding '{encoding}' is not supported"
    )
    with pytest.raises(EncodingError, match=complaint):
        paired.sample()


def test_the_drivers_wrong_encoding_is_overruled_by_option():
    pipeline = pipeline_of(**{"thermal.x_encoding": "mono16"})
    pipeline.push_message("thermal", Stream.RGB, rgb(0), 0)
    counts = textured((4, 4), np.uint16, 30000)
    wrong = message(counts, "16UC1", 0)
    wrong.encoding = "bayer_rggb16"
    (paired,) = pipeline.push_message("thermal", Stream.X, wrong, 0)
    assert (paired.sample().x == counts).all()


def test_drawn_pictures_go_through_the_other_door():
    pipeline = pipeline_of(pairs=["event"], event={"x_form": "image"})
    pipeline.push_message("event", Stream.RGB, rgb(0), 0)
    (paired,) = pipeline.push_message("event", Stream.X, rgb(0), 0)
    assert paired.sample().x_form is XForm.IMAGE


# ---- what messages carry ----


def empty(stamp_ms):
    return message(np.full((4, 5), 29315, np.uint16), "16UC1", stamp_ms, "thermal")


def pushed(pipeline, stamp_ms, x):
    pipeline.push_message("thermal", Stream.X, x, 0)
    (paired,) = pipeline.push_message("thermal", Stream.RGB, rgb(stamp_ms), 0)
    return paired


def test_an_x_without_content_is_dropped_where_a_missing_one_is():
    pipeline = pipeline_of()
    with pytest.raises(EmptyXError, match=r"topic 'thermal/x/image' \(thermal\): flat"):
        pushed(pipeline, 0, empty(0)).sample()
    reader = pipeline["thermal"].reader
    assert (reader.num_empty, reader.x_content.is_empty) == (1, True)
    assert pushed(pipeline, 50, thermal(50)).sample().x.any()
    assert (reader.num_empty, reader.x_content.problem) == (1, "")


def test_rgb_goes_alone_where_x_carries_nothing():
    pipeline = pipeline_of(**{"sync.on_missing_x": "rgb_only"})
    sample = pushed(pipeline, 0, empty(0)).sample()
    assert sample.x_form is XForm.IMAGE
    assert not sample.x.any()
    assert pipeline["thermal"].reader.num_empty == 1


def test_the_last_x_with_content_is_held_as_long_as_it_may():
    pipeline = pipeline_of(**{"sync.on_missing_x": "hold_last", "sync.max_hold_ms": 100})
    with pytest.raises(EmptyXError):
        pushed(pipeline, 0, empty(0)).sample()
    good = pushed(pipeline, 50, thermal(50)).sample()
    held = pushed(pipeline, 140, empty(140)).sample()
    assert (held.x == good.x).all()
    assert held.stamp_ns == START + 140 * MS
    with pytest.raises(EmptyXError):
        pushed(pipeline, 200, empty(200)).sample()
    pushed(pipeline, 250, thermal(250)).sample()
    pipeline.clear()
    with pytest.raises(EmptyXError):
        pushed(pipeline, 300, empty(300)).sample()


def test_the_policy_may_change_while_it_runs():
    pipeline = pipeline_of()
    waiting = pushed(pipeline, 0, empty(0))
    pipeline.configure(node_config({"sync.on_missing_x": "rgb_only"}))
    assert waiting.sample().x_form is XForm.IMAGE


@pytest.mark.parametrize(
    ("options", "problem"),
    [({}, "12 bits in the low end of 16"), ({"thermal.rgb_full_scale": 4095}, "")],
)
def test_rgb_of_12_bits_in_16_is_named_and_cured(options, problem):
    pipeline = pipeline_of(**options)
    pixels = textured((8, 10, 3), np.uint16, step=17)
    pipeline.push_message("thermal", Stream.X, thermal(0), 0)
    image_16 = message(pixels, "rgb16", 0)
    (paired,) = pipeline.push_message("thermal", Stream.RGB, image_16, 0)
    brightest = paired.sample().rgb.max()
    assert problem in pipeline["thermal"].reader.rgb_content.problem
    assert brightest == (253 if options else pixels.max() >> 8)


def test_an_rgb_image_without_the_name_of_its_encoding_is_read_by_option():
    nameless = rgb(0)
    nameless.encoding = ""
    for options, works in (({}, False), ({"thermal.rgb_encoding": "bgr8"}, True)):
        pipeline = pipeline_of(**options)
        pipeline.push_message("thermal", Stream.X, thermal(0), 0)
        (paired,) = pipeline.push_message("thermal", Stream.RGB, nameless, 0)
        if works:
            wanted = textured((8, 10, 3), np.uint8)[..., ::-1]
            assert (paired.sample().rgb == wanted).all()
        else:
            with pytest.raises(EncodingError, match="encoding '' is not supported here"):
                paired.sample()


# ---- the worker ----


class FakeModel:
    """Answers zeros; `hold` keeps it busy, `fail` breaks it."""

    def __init__(self):
        self.batches = []
        self.forgotten = []
        self.hold = threading.Event()
        self.hold.set()
        self.fail = None

    def forget(self):
        self.forgotten.append(len(self.batches))

    def predict(self, samples, streams):
        self.batches.append([sample.modality.value for sample in samples])
        self.hold.wait(5)
        if self.fail is not None:
            error, self.fail = self.fail, None
            raise error
        return [
            Prediction(
                labels=np.zeros(sample.rgb.shape[:2], np.uint8),
                confidence=np.zeros(sample.rgb.shape[:2], np.uint8),
                x_image=np.zeros((4, 4, 3), np.float32),
                modality=sample.modality,
                stamp_ns=sample.stamp_ns,
                frame_id=sample.frame_id,
                timings_ms={"model": 1.0},
            )
            for sample in samples
        ]


@pytest.fixture
def bench():
    """A worker for two pairs, what it delivered, what it complained about."""
    model, done, complaints = FakeModel(), [], []
    worker = Worker(
        model,
        BatchConfig(max_size=4, max_wait_ms=20),
        num_pairs=2,
        deliver=lambda paired, sample, answer: done.append((paired.name, answer.stamp_ns)),
        complain=lambda *what: complaints.append(what),
        patience=Patience(stop_s=0.5),
    )
    worker.start()
    yield SimpleNamespace(worker=worker, model=model, done=done, complaints=complaints)
    model.hold.set()
    assert worker.stop()


def pair(stamp_ms, name="thermal", bad=False):
    pipeline = pipeline_of(pairs=["thermal", "depth"])
    pipeline.push_message(name, Stream.X, thermal(stamp_ms), 0)
    (paired,) = pipeline.push_message(name, Stream.RGB, rgb(stamp_ms, height=8), time.time_ns())
    if bad:
        paired.rgb.data = array("B")
    return paired


def wait_until(condition, seconds=5.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened in time"
        time.sleep(0.002)


def test_newest_pair_wins_and_the_replaced_are_counted(bench):
    bench.model.hold.clear()
    bench.worker.submit(pair(0))
    wait_until(lambda: bench.model.batches)
    for stamp in (10, 20, 30):
        bench.worker.submit(pair(stamp))
    bench.model.hold.set()
    wait_until(lambda: len(bench.done) == 2)
    assert [stamp for _, stamp in bench.done] == [START, START + 30 * MS]
    report = bench.worker.report()
    assert (report.answered, report.replaced, report.batches) == (2, 2, 2)
    assert bench.worker.report().answered == 0


def test_pairs_that_are_ready_share_a_batch(bench):
    bench.worker.submit(pair(0))
    bench.worker.submit(pair(0, "depth"))
    wait_until(lambda: len(bench.done) == 2)
    assert bench.model.batches == [["thermal", "depth"]]


def test_a_lonely_pair_waits_no_longer_than_allowed(bench):
    start = time.monotonic()
    bench.worker.submit(pair(0))
    wait_until(lambda: bench.done)
    assert time.monotonic() - start < 1
    assert bench.model.batches == [["thermal"]]


def test_a_bad_message_spoils_only_its_own_pair(bench):
    bench.worker.submit(pair(0, bad=True))
    bench.worker.submit(pair(0, "depth"))
    wait_until(lambda: bench.done and bench.complaints)
    assert bench.done == [("depth", START)]
    ((name, cause, text),) = bench.complaints
    assert (name, cause) == ("thermal", "message")
    assert "topic 'thermal/rgb/image'" in text


def test_an_encoder_error_is_traced_to_its_sample(bench):
    bench.model.fail = EncodingError("thermal: no good")
    bench.worker.submit(pair(0))
    bench.worker.submit(pair(0, "depth"))
    wait_until(lambda: len(bench.done) == 2)
    assert bench.model.batches == [["thermal", "depth"], ["thermal"], ["depth"]]


def test_any_exception_is_counted_and_survived(bench):
    bench.model.fail = RuntimeError("out of memory")
    bench.worker.submit(pair(0))
    wait_until(lambda: bench.complaints)
    name, cause, text = bench.complaints[0]
    assert (name, cause) == ("thermal", "exception")
    assert text.startswith("RuntimeError: out of memory\n")
    bench.worker.submit(pair(10))
    wait_until(lambda: bench.done)
    assert bench.worker.report().failed == {"exception": 1}


def test_what_the_model_keeps_is_forgotten_once_and_before_the_next_pass(bench):
    bench.worker.submit(pair(0))
    wait_until(lambda: len(bench.done) == 1)
    bench.worker.clear()
    for stamp in (10, 20):
        bench.worker.submit(pair(stamp))
        wait_until(lambda wanted=stamp // 10 + 1: len(bench.done) == wanted)
    assert bench.model.forgotten == [1]


def test_a_stopped_worker_drops_the_answer_it_was_making(bench):
    bench.model.hold.clear()
    bench.worker.submit(pair(0))
    wait_until(lambda: bench.model.batches)
    assert not bench.worker.stop()
    bench.model.hold.set()
    wait_until(bench.worker.start)
    bench.worker.submit(pair(10))
    wait_until(lambda: bench.done)
    assert bench.done == [("thermal", START + 10 * MS)]
