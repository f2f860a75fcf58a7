"""Which streams CUDA graphs and scenes are made on, with a double for a machine with two GPUs."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from segrgbx_core.model import Scene
from segrgbx_core.runtime import batch as batch_module
from segrgbx_core.runtime.batch import Batch, InputConfig, place
from segrgbx_core.runtime.engines import CudaExecutor, GraphEngine

SECOND = torch.device("cuda", 1)


class TwoGpus:
    """Streams, events and graphs of two GPUs, as far as this package uses them.

    Attributes:
        device: index of the current device.
        streams: current stream of each device.
        waited: (who, for whom) of streams.
        recording: stream and graph of a recording.
    """

    def __init__(self):
        self.device = 0
        self.streams = [FakeStream(self, 0), FakeStream(self, 1)]
        self.waited = []
        self.recording = None

    def launch(self, device, kernel):
        """Runs a kernel on the current stream of a device, or records it instead."""
        stream, graph = self.recording or (None, None)
        if self.streams[device] is stream:
            graph.kernels.append(kernel)
        else:
            kernel()

    @contextmanager
    def on_device(self, device):
        before, self.device = self.device, torch.device(device).index
        yield
        self.device = before

    @contextmanager
    def on_stream(self, stream):
        before = self.device, self.streams[stream.device]
        self.device, self.streams[stream.device] = stream.device, stream
        yield
        self.device, self.streams[stream.device] = before

    @contextmanager
    def graph(self, graph, pool, stream=None, capture_error_mode="global"):
        assert (pool, capture_error_mode) == ("pool", "thread_local")
        stream = stream or FakeStream(self, self.device)
        with self.on_stream(stream):
            self.recording = stream, graph
            yield
            self.recording = None


class FakeStream:
    def __init__(self, gpus, device):
        self.gpus, self.device = gpus, device

    def wait_stream(self, other):
        self.gpus.waited.append((self, other))


class FakeGraph:
    def __init__(self):
        self.kernels = []

    def replay(self):
        for kernel in self.kernels:
            kernel()


@pytest.fixture
def gpus(monkeypatch):
    gpus = TwoGpus()
    event = SimpleNamespace(record=lambda _: None, query=lambda: True)
    doubles = {
        "Stream": lambda device=None: FakeStream(gpus, torch.device(device or gpus.device).index),
        "Event": lambda: event,
        "CUDAGraph": FakeGraph,
        "current_stream": lambda device: gpus.streams[device.index],
        "device": gpus.on_device,
        "stream": gpus.on_stream,
        "graph": gpus.graph,
        "graph_pool_handle": lambda: "pool",
    }
    for name, double in doubles.items():
        monkeypatch.setattr(torch.cuda, name, double)
    return gpus


# --- graphs -------------------------------------------------------------------------------------


def test_a_graph_of_the_second_gpu_holds_its_work(gpus):
    """While the first GPU is the current device, as it is unless somebody changes it."""
    output = torch.zeros(1)

    def work():
        gpus.launch(1, lambda: output.add_(1))
        return output

    replay = CudaExecutor(SECOND).record(work)
    before = output.item()
    for count in (1, 2, 3):
        assert replay().item() == before + count
    assert (gpus.device, len(set(gpus.streams))) == (0, 2)
    main = gpus.streams[1]
    [(first, _), (_, last)] = gpus.waited
    assert first is last, "dry runs wait for what was before, and what comes waits for them"
    assert gpus.waited == [(first, main), (main, first)]


def test_graphs_that_share_memory_are_recorded_on_one_stream(gpus):
    executor, used = CudaExecutor(SECOND), []

    def work():
        used.append(gpus.streams[1])
        return torch.zeros(1)

    executor.record(work)
    executor.record(work)
    assert len(set(used)) == 1
    assert used[0] is not gpus.streams[1]


class Network:
    """An engine whose logits are the mean colours."""

    device, name, precision, merged_for = torch.device("cpu"), "cpu", "fp32", None

    def coarse_logits(self, batch, _scene):
        return torch.cat([batch.rgb.mean(dim=(2, 3)), batch.x.mean(dim=(2, 3))])


def blind(work):
    """Records what returns its first logits for ever."""
    output = work()
    return lambda: output


def repeating(error=0.0):
    """Does the work again; its logits are off by the given share."""
    return lambda work: lambda: work() * (1 + error)


def picture(value, count=1):
    spot = place(4, 4, InputConfig(height=32, width=32))
    x = torch.full((count, 4, 4, 3), float(value))
    return Batch((x * 255).byte(), x, torch.zeros(count, dtype=torch.int64), (spot,) * count)


def test_a_graph_that_does_not_see_the_picture_is_not_used(caplog):
    engine = GraphEngine(Network(), blind)
    for value in (0.0, 0.2, 1.0):
        assert torch.allclose(engine.coarse_logits(picture(value), Scene()), torch.tensor(value))
    [record] = caplog.records
    assert record.levelname == "ERROR"
    assert "cuda_graph: the graph for 1 pairs of 4x4 px does not answer like" in record.message
    engine.coarse_logits(picture(0.5, count=2), Scene())
    assert len(caplog.records) == 2, "every shape has a graph of its own"


@pytest.mark.parametrize(("error", "is_used"), [(0.0, True), (0.02, True), (0.5, False)])
def test_a_graph_may_round_otherwise_but_not_be_wrong(caplog, error, is_used):
    engine = GraphEngine(Network(), repeating(error))
    engine.coarse_logits(picture(0.0), Scene())
    given = engine.coarse_logits(picture(1.0), Scene())
    assert torch.allclose(given, torch.tensor(1 + error if is_used else 1.0))
    assert ("cuda_graph" in caplog.text) is not is_used


def test_logits_that_are_no_numbers_say_nothing_about_a_graph(caplog):
    class Broken(Network):
        def coarse_logits(self, batch, scene):
            logits = super().coarse_logits(batch, scene)
            return torch.cat([logits, torch.full_like(logits, torch.nan)])

    assert GraphEngine(Broken(), repeating()).coarse_logits(picture(0.25), Scene()).isnan().any()
    assert caplog.text == ""


# --- scenes beside the frames -------------------------------------------------------------------


def test_what_frame_and_scene_share_is_made_before_the_side_stream_begins(gpus, monkeypatch):
    """A batch of one pair is the frame's own, whose `rgb` must not come from the side stream."""
    made, kept = [], []
    to_rgb = batch_module.rgb_tensor

    def note(pixels):
        made.append((gpus.streams[1], len(gpus.waited)))
        return to_rgb(pixels)

    monkeypatch.setattr(batch_module, "rgb_tensor", note)
    monkeypatch.setattr(
        torch.Tensor, "record_stream", lambda *known: kept.append(known), raising=False
    )
    looked = []

    def encode(batch):
        looked.append((gpus.streams[1], batch.rgb))
        return Scene((torch.zeros(1),), ())

    main, frame = gpus.streams[1], picture(0.5)
    poll = CudaExecutor(SECOND).submit(encode, frame.select([0]))
    [(side, seen)] = looked
    assert side is not main
    assert made == [(main, 0)], "on the frame's stream, before the other one waits for it"
    assert gpus.waited == [(side, main)]
    assert seen is frame.rgb
    assert any(tensor is frame.rgb and stream is side for tensor, stream in kept)
    scene = poll()
    assert any(tensor is scene.prompt_kv[0] and stream is main for tensor, stream in kept)
