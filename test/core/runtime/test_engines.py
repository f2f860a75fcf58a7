"""Precisions, compiled and recorded forms against eager float32; what cannot be had is refused."""

import os
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from segrgbx_core.base.errors import ConfigError
from segrgbx_core.base.modality import MODALITIES, Modality
from segrgbx_core.base.samples import RgbxSample
from segrgbx_core.export.parity import MIN_AGREEMENT, make_cases
from segrgbx_core.runtime import malloc_tuning as heap
from segrgbx_core.runtime.batch import Batch, InputConfig, place
from segrgbx_core.runtime.checkpoint import default_contract, random_weights
from segrgbx_core.runtime.cuda_graph import GraphEngine
from segrgbx_core.runtime.devices import DTYPES, choose_device, flushed_denormals, use_threads
from segrgbx_core.runtime.engine import EagerEngine, ExactLayer
from segrgbx_core.runtime.engines import check_options, make_engine, make_lane
from segrgbx_core.runtime.pinned_buffers import Staging
from segrgbx_core.runtime.segmenter import InferenceConfig, Segmenter

CPU = torch.device("cpu")
DEMO = Path(__file__).parents[3] / "resource" / "demo"


def engine(precision="fp32", preset="tiny", **options):
    contract = default_contract(preset, input=InputConfig(height=64, width=96))
    config = InferenceConfig(device="cpu", **options)
    return EagerEngine(random_weights(contract), CPU, precision, config)


def answer(engine, batch):
    with torch.inference_mode(), flushed_denormals():
        return engine.logits(batch, engine.scene(batch)).float()


@pytest.fixture(scope="module")
def plain():
    return engine()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("size", [(32, 32), (33, 61), (97, 64), (50, 130)])
def test_any_size_gives_numbers_close_to_float32(plain, precision, size):
    other = plain if precision == "fp32" else engine("bf16")
    seed = size[0]
    for case in make_cases(size, MODALITIES, 1):
        exact, rough = answer(plain, case.batch), answer(other, case.batch)
        assert rough.shape == (1, 71, -(-size[0] // 4), -(-size[1] // 4)), seed
        assert rough.isfinite().all()
        # Random weights leave many near ties: logits are compared, not labels.
        error = (exact - rough).std() / exact.std()
        assert error < (1e-6 if precision == "fp32" else 0.05)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_blank_and_saturated_images_give_numbers(plain, value):
    pixels = torch.full((2, 64, 64, 3), value)
    spot = place(64, 64, InputConfig(height=64, width=64))
    batch = Batch((pixels * 255).byte(), pixels, torch.tensor([0, 4]), (spot, spot))
    for each in (plain, engine("bf16")):
        assert answer(each, batch).isfinite().all()


def test_separate_patches_stay_in_float32_on_cpus():
    """oneDNN's bfloat16 answers to some of these are nonsense: see `keep_patches_exact`."""
    rough = engine("bf16")
    kept = [layer for layer in rough.model.modules() if isinstance(layer, ExactLayer)]
    ratios = [8, 4, 4, 2, 2]  # of every block in stages 1 to 3
    assert [layer.layer.stride[0] for layer in kept] == ratios
    layer = kept[0]
    features = torch.randn(2, 24, 60, 80)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        given = layer(features.bfloat16())
    assert given.dtype == torch.float32
    with torch.no_grad():
        torch.testing.assert_close(given, layer.layer(features.bfloat16().float()))
    assert not any(isinstance(layer, ExactLayer) for layer in engine().model.modules())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("preset", ["tiny", "cmnext_tiny", "geminifusion_tiny"])
def test_weights_are_cast_once_to_the_bits_of_autocast(monkeypatch, preset, precision):
    once = engine(precision, preset=preset)
    products, others = set(), set()
    for layer in once.model.modules():
        if isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear)):
            products.add(layer.weight.dtype)
        elif isinstance(layer, (torch.nn.LayerNorm, torch.nn.BatchNorm2d)):
            others.add(layer.weight.dtype)
    exact = {torch.float32} if precision == "bf16" else set()
    assert products == {DTYPES[precision]} | exact
    assert others == {torch.float32}
    assert once.model.head.mixers[0].dtype == DTYPES[precision]
    monkeypatch.setattr("segrgbx_core.runtime.engine.cast_products", lambda *_: None)
    each_frame = engine(precision, preset=preset)
    for case in make_cases((64, 96), MODALITIES, 2):
        assert torch.equal(answer(once, case.batch), answer(each_frame, case.batch))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_demo_checkpoint_keeps_its_labels(precision, rng):
    path = DEMO / "segrgbx_tiny.safetensors"
    if not path.is_file():
        pytest.skip(f"no demo checkpoint at {path}")
    frames = demo_frames(4)
    exact = Segmenter.from_checkpoint(path, InferenceConfig(device="cpu"))
    config = InferenceConfig(device="cpu", precision=precision, channels_last=False)
    other = Segmenter.from_checkpoint(path, config)
    for frame in frames:
        [one], [two] = exact.predict([frame]), other.predict([frame])
        assert (one.labels == two.labels).mean() >= MIN_AGREEMENT


def demo_frames(count):
    """Frames of the shipped recording."""
    cv2 = pytest.importorskip("cv2")
    highlevel = pytest.importorskip("rosbags.highlevel")
    folder = DEMO / "thermal"
    if not folder.is_dir():
        pytest.skip(f"no recording at {folder}")
    images = {"rgb": [], "x": []}
    with highlevel.AnyReader([folder]) as reader:
        for connection, _, raw in reader.messages():
            kind = connection.topic.split("/")[2]
            if kind in images and len(images[kind]) < 20 * count:
                images[kind].append(reader.deserialize(raw, connection.msgtype).data)
    read = lambda data: cv2.imdecode(np.asarray(data), cv2.IMREAD_UNCHANGED)  # noqa: E731
    return [
        RgbxSample(read(rgb)[..., ::-1].copy(), read(x), Modality.THERMAL)
        for rgb, x in list(zip(images["rgb"], images["x"], strict=True))[::20]
    ]


class Notebook:
    """A recorder that repeats work by doing it again, on the memory it was recorded with."""

    def __init__(self):
        self.recorded = 0

    def record(self, work):
        self.recorded += 1
        output = work()

        def replay():
            return output.copy_(work())

        return replay


def test_recorded_frames_read_static_memory_and_overwrite_their_output(plain):
    notebook = Notebook()
    recorded = GraphEngine(plain, notebook)
    assert (recorded.device, recorded.precision, recorded.merged_for) == (CPU, "fp32", None)
    assert recorded.memory == plain.memory
    cases = make_cases((64, 64), MODALITIES, 3)
    others = make_cases((64, 64), MODALITIES[::-1], 3)
    for case in (*cases, *others, *cases):
        torch.testing.assert_close(answer(recorded, case.batch), answer(plain, case.batch))
    assert notebook.recorded == 3  # one per shape
    with torch.inference_mode():
        first = recorded.logits(cases[0].batch, recorded.scene(cases[0].batch))
        before = first.clone()
        recorded.logits(others[0].batch, recorded.scene(others[0].batch))
    assert not torch.equal(before, first)


def test_what_the_machine_cannot_do_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="cuda_graph: needs a CUDA device"):
        check_options(InferenceConfig(device="cpu", cuda_graph=True))
    with pytest.raises(ConfigError, match="torch sees no CUDA device"):
        check_options(InferenceConfig(device="cuda"))
    with pytest.raises(ConfigError, match="fp16 is not supported on a CPU"):
        check_options(InferenceConfig(device="cpu", precision="fp16"))
    monkeypatch.setattr(torch, "compile", refuse)
    weights = random_weights(default_contract("tiny"))
    with pytest.raises(ConfigError, match="compile: cannot be had here: no Python"):
        make_engine(weights, InferenceConfig(device="cpu", compile=True))
    assert make_lane(CPU) is None


def refuse(_):
    raise RuntimeError("no Python headers")


@pytest.mark.parametrize("index", [1, 127, 255, 256, 300])
def test_a_gpu_that_is_not_there_is_never_another_one(monkeypatch, index):
    """torch keeps 8 bits of the number."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match=f"device: 'cuda:{index}' cannot be used"):
        choose_device(f"cuda:{index}")
    assert choose_device("cuda:0") == choose_device("cuda") == torch.device("cuda", 0)


def test_denormals_are_flushed_and_the_thread_left_as_it_was():
    def is_flushed():
        return bool((torch.tensor(1e-38) * 0.1) == 0)

    for before in (False, True):
        torch.set_flush_denormal(before)
        with flushed_denormals():
            assert is_flushed()
        assert is_flushed() == before
    torch.set_flush_denormal(False)


def test_the_heap_is_asked_to_keep_memory_where_it_can(monkeypatch):
    asked = []
    library = SimpleNamespace(mallopt=lambda option, value: asked.append((option, value)) or 1)
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda _: library)
    assert heap.keep_freed_memory()
    assert [option for option, _ in asked] == [-3, -1, -8]
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda _: SimpleNamespace())
    assert not heap.keep_freed_memory()


def test_the_heap_is_left_alone_on_request(monkeypatch):
    asked = []
    monkeypatch.setattr("segrgbx_core.runtime.engine.keep_freed_memory", lambda: asked.append(1))
    engine(keep_memory=False)
    assert asked == []
    engine()
    assert asked == [1]


def test_staging_takes_turns_and_reuses_memory():
    staging = Staging(CPU, keeps=True)
    seen = []
    for _ in range(4):
        staging.next_batch()
        array = staging.array("rgb", (2, 4, 4, 3), torch.uint8)
        seen.append(array.ctypes.data)
        other = staging.array("x", (2, 4, 4, 3), torch.float32)
        assert other.dtype == np.float32
        [tensor] = staging.send(array)
        assert tensor.shape == (2, 4, 4, 3)
        assert tensor.data_ptr() == array.ctypes.data
    assert seen[0] == seen[2] != seen[1] == seen[3]
    larger = staging.array("rgb", (3, 4, 4, 3), torch.uint8)
    assert larger.shape == (3, 4, 4, 3)


def test_on_a_cpu_batches_have_memory_of_their_own():
    staging = Staging(CPU)
    arrays = []
    for value in range(3):
        staging.next_batch()
        array = staging.array("rgb", (8,), torch.uint8)
        array[:] = value
        arrays.append(array)
    assert [array[0] for array in arrays] == [0, 1, 2]


def test_the_network_can_be_traced_for_compilation(monkeypatch, plain):
    """All but the last step of torch.compile, which needs a C++ compiler and a minute."""
    traced = partial(torch.compile, backend="eager", fullgraph=True)
    monkeypatch.setattr(torch, "compile", traced)
    [case] = make_cases((64, 64), [Modality.THERMAL], 1)
    torch.testing.assert_close(
        answer(engine(compile=True), case.batch), answer(plain, case.batch), rtol=1e-5, atol=1e-5
    )


def test_threads_of_a_pass(monkeypatch):
    before = torch.get_num_threads()
    try:
        assert use_threads(3) == 3
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
        assert use_threads(0) == 3, "the environment's number is the process's, and stays"
        monkeypatch.delenv("OMP_NUM_THREADS")
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
        assert use_threads(0) == 3
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
        assert use_threads(0) == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.gpu
def test_recorded_graphs_and_the_side_stream_on_a_gpu(caplog):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    device = f"cuda:{torch.cuda.device_count() - 1}"  # the current device is the first
    contract = default_contract("tiny", input=InputConfig(height=64, width=96))
    answers = {}
    for cuda_graph in (False, True):
        config = InferenceConfig(
            device=device, precision="fp32", cuda_graph=cuda_graph, scene={"refresh_every": 2}
        )
        segmenter = Segmenter(random_weights(contract), config)
        segmenter.warm_up((64, 96), MODALITIES, (1, 2))
        frames = demo_frames(4)
        answers[cuda_graph] = [segmenter.predict([frame, frame]) for frame in frames]
        ages = [segmenter.predict([frame], ["front"])[0].scene_age for frame in frames * 3]
        assert ages[0] == 0
        assert max(ages) < len(ages) - 1  # looks from the side stream arrive
    for plain, recorded in zip(answers[False], answers[True], strict=True):
        for one, other in zip(plain, recorded, strict=True):
            assert (one.labels == other.labels).mean() >= MIN_AGREEMENT
    assert "cuda_graph" not in caplog.text, "a graph was refused"
