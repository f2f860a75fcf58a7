"""Precisions, compiled and recorded forms against eager float32; wrong options are refused."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from segrgbx_core.base.errors import ConfigError
from segrgbx_core.base.modality import MODALITIES, Modality
from segrgbx_core.base.samples import RgbxSample
from segrgbx_core.export.parity import MIN_AGREEMENT, make_cases
from segrgbx_core.runtime.batch import Batch, InputConfig, place
from segrgbx_core.runtime.checkpoint import default_contract, random_weights
from segrgbx_core.runtime.devices import DTYPES, flushed_denormals
from segrgbx_core.runtime.engines import (
    EagerEngine,
    ExactLayer,
    GraphEngine,
    check_options,
    make_engine,
)
from segrgbx_core.runtime.segmenter import InferenceConfig, Segmenter

CPU = torch.device("cpu")
DEMO = Path(__file__).parents[3] / "resource" / "demo"


def engine(precision="fp32", preset="tiny", **options):
    contract = default_contract(preset, input=InputConfig(height=64, width=96))
    config = InferenceConfig(device="cpu", **options)
    return EagerEngine(random_weights(contract), CPU, precision, config)


def answer(engine, batch):
    with torch.inference_mode(), flushed_denormals():
        return engine.coarse_logits(batch, engine.encode_scene(batch)).float()


@pytest.fixture(scope="module")
def plain():
    return engine()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("size", [(32, 32), (33, 61), (97, 64), (50, 130)])
def test_any_size_gives_numbers_close_to_float32(plain, precision, size):
    other = plain if precision == "fp32" else engine("bf16")
    seed = size[0]
    for case in make_cases(size, MODALITIES, count=1):
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
@pytest.mark.parametrize("preset", ["tiny", "cmnext_tiny", "geminifusion_tiny", "segformer_tiny"])
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
    monkeypatch.setattr("segrgbx_core.runtime.engines.cast_products", lambda *_: None)
    each_frame = engine(precision, preset=preset)
    for case in make_cases((64, 96), MODALITIES, count=2):
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


def test_float32_is_float32():
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    engine()
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32


def test_the_size_of_the_weights_is_counted_once(plain, monkeypatch):
    parts = (plain.model, plain.ma_clip)
    tensors = [tensor for part in parts for tensor in part.state_dict().values()]
    expected = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    monkeypatch.setattr(torch.nn.Module, "state_dict", None)  # not to be built for every report
    assert plain.memory == expected > 1e6


def test_recorded_frames_read_static_memory_and_overwrite_their_output(plain):
    replays = []

    def record(work):
        output = work()
        replays.append(lambda: output.copy_(work()))
        return replays[-1]

    recorded = GraphEngine(plain, record)
    assert (recorded.device, recorded.precision, recorded.merged_for) == (CPU, "fp32", None)
    assert recorded.memory == plain.memory
    cases = make_cases((64, 64), MODALITIES)
    others = make_cases((64, 64), MODALITIES[::-1])
    for case in (*cases, *others, *cases):
        torch.testing.assert_close(answer(recorded, case.batch), answer(plain, case.batch))
    assert len(replays) == 3  # one per shape
    with torch.inference_mode():
        first = recorded.coarse_logits(cases[0].batch, recorded.encode_scene(cases[0].batch))
        before = first.clone()
        recorded.coarse_logits(others[0].batch, recorded.encode_scene(others[0].batch))
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
    with pytest.raises(ConfigError, match="compile: not available on this machine: no Python"):
        make_engine(weights, InferenceConfig(device="cpu", compile=True))


def refuse(_):
    raise RuntimeError("no Python headers")


def test_the_network_can_be_traced_for_compilation(monkeypatch, plain):
    """All but the last step of torch.compile, which needs a C++ compiler and a minute."""
    traced = partial(torch.compile, backend="eager", fullgraph=True)
    monkeypatch.setattr(torch, "compile", traced)
    [case] = make_cases((64, 64), [Modality.THERMAL], count=1)
    torch.testing.assert_close(
        answer(engine(compile=True), case.batch), answer(plain, case.batch), rtol=1e-5, atol=1e-5
    )


@pytest.mark.gpu
def test_recorded_graphs_and_scenes_beside_the_frames_on_a_gpu(caplog):
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
        assert max(ages) < len(ages) - 1  # scenes from the other stream arrive
    for plain, recorded in zip(answers[False], answers[True], strict=True):
        for one, other in zip(plain, recorded, strict=True):
            assert (one.labels == other.labels).mean() >= MIN_AGREEMENT
    assert "cuda_graph" not in caplog.text, "a graph was refused"
