"""Scales, mirrored copies and windows against single passes and against sums by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from segrgbx_core.base.errors import ConfigError, EncodingError
from segrgbx_core.base.modality import Modality
from segrgbx_core.base.samples import RgbxSample
from segrgbx_core.labels.label_space import VOID
from segrgbx_core.runtime.batch import InputConfig, fit_to_model
from segrgbx_core.runtime.checkpoint import load_checkpoint, random_checkpoint
from segrgbx_core.runtime.segmenter import InferenceConfig, Segmenter
from segrgbx_core.sensors import PolarizationSensor, SensorConfig
from segrgbx_core.sensors.polarization import PolarizationLayout
from training.eval.test_time_augmentation import (
    ClassProbabilities,
    EncodedPair,
    Fit,
    TtaConfig,
    TtaSegmenter,
    window_starts,
)

CPU = InferenceConfig(device="cpu")
SENSORS = SensorConfig(polarization=PolarizationSensor(layout=PolarizationLayout.CHANNELS4))
HEIGHT, WIDTH = 64, 96


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("views") / "tiny.safetensors"
    random_checkpoint(path, input=InputConfig(height=HEIGHT, width=WIDTH))
    return path


@pytest.fixture(scope="module")
def segmenter(checkpoint):
    return Segmenter.from_checkpoint(checkpoint, CPU, SENSORS, label_space="mfnet")


def sample(modality=Modality.THERMAL, height=HEIGHT, width=WIDTH, seed=0):
    rng = np.random.default_rng(seed)
    rgb = rng.integers(0, 255, (height, width, 3)).astype(np.uint8)
    if modality is Modality.POLARIZATION:
        x = rng.integers(0, 255, (height, width, 4)).astype(np.uint8)
    else:
        x = rng.integers(28000, 32000, (height, width)).astype(np.uint16)
    return RgbxSample(rgb, x, modality)


def agree(labels, others):
    """Equal but for ties that rounding decides."""
    return labels.shape == others.shape and (labels == others).mean() > 0.999


@pytest.mark.parametrize("size", [(HEIGHT, WIDTH), (50, 131)])
@pytest.mark.parametrize("space", ["mfnet", "unified"])
def test_one_view_is_what_the_vehicle_answers(checkpoint, size, space):
    segmenter = Segmenter.from_checkpoint(checkpoint, CPU, label_space=space)
    given = sample(height=size[0], width=size[1])
    [answer] = segmenter.predict([given])
    viewer = TtaSegmenter(segmenter, TtaConfig(scales=(1.0,)))
    assert agree(viewer.labels(given), answer.labels)
    probabilities = viewer.probabilities(given)
    assert probabilities.shape == (len(segmenter.classes.names), *size)
    np.testing.assert_allclose(probabilities.sum(dim=0), 1, atol=1e-5)
    best = (probabilities.amax(dim=0) * 255).round().numpy()
    assert np.abs(best - answer.confidence).max() <= 1


def test_a_window_as_large_as_the_frame_is_the_frame(segmenter):
    given = sample()
    whole = TtaSegmenter(segmenter, TtaConfig())
    window = TtaSegmenter(segmenter, TtaConfig(fit=Fit.WINDOW))
    torch.testing.assert_close(window.probabilities(given), whole.probabilities(given))
    both = TtaConfig(flip=True), TtaConfig(fit=Fit.WINDOW, flip=True)
    mirrored = [TtaSegmenter(segmenter, config).probabilities(given) for config in both]
    torch.testing.assert_close(*mirrored)
    assert not torch.allclose(mirrored[0], whole.probabilities(given), atol=1e-3)


def test_native_resolution_is_an_input_of_that_size(checkpoint, segmenter):
    given = sample(height=70, width=125)  # 96 x 128 in multiples of 32
    config = InferenceConfig(device="cpu", input_height=96, input_width=128)
    other = Segmenter.from_checkpoint(checkpoint, config, SENSORS, label_space="mfnet")
    native = TtaSegmenter(segmenter, TtaConfig(fit=Fit.NATIVE)).labels(given)
    assert native.shape == (70, 125)
    assert agree(native, other.predict([given])[0].labels)


@pytest.mark.parametrize(
    ("frame", "pad", "size"),
    [((80, 160), True, (64, 128)), ((70, 125), True, (64, 114)), ((70, 125), False, (64, 128))],
)
def test_a_frame_in_its_own_aspect_has_the_inputs_short_side(checkpoint, frame, pad, size):
    loaded = load_checkpoint(checkpoint)
    own = InputConfig(height=HEIGHT, width=WIDTH, pad=pad)
    contract = loaded.contract.model_copy(update={"input": own})
    segmenter = Segmenter(replace(loaded, contract=contract), CPU, SENSORS, label_space="mfnet")
    given = sample(height=frame[0], width=frame[1])
    viewer = TtaSegmenter(segmenter, TtaConfig(fit=Fit.ASPECT))
    source = ClassProbabilities(segmenter)
    pair = source.encode(given)
    scene = source.encode_scene([pair], None)  # MA-CLIP sees what it sees on a vehicle
    [expected] = source.probabilities([pair], scene, size)
    torch.testing.assert_close(viewer.probabilities(given), expected)
    larger = TtaSegmenter(segmenter, TtaConfig(fit=Fit.ASPECT, scales=(2.0,))).probabilities(given)
    assert larger.shape == expected.shape
    assert not torch.allclose(larger, expected, atol=1e-3)


def test_scales_and_mirrors_are_averaged(segmenter):
    given = sample(height=60, width=90)
    source = ClassProbabilities(segmenter)
    pair = source.encode(given)
    mirrored = EncodedPair(
        np.ascontiguousarray(pair.rgb[:, ::-1]),
        np.ascontiguousarray(pair.x_image[:, ::-1]),
        pair.modality,
    )
    views = []
    for one, flips in ((pair, False), (mirrored, True)):
        scene = source.encode_scene([one])
        for size in ((32, 64), (64, 96), (96, 160)):  # 0.5, 1 and 1.5 times 64 x 96, up to 32
            [answer] = source.probabilities([one], scene, size)
            views.append(answer.flip(-1) if flips else answer)
    config = TtaConfig(scales=(0.5, 1.0, 1.5), flip=True)
    mean = TtaSegmenter(segmenter, config).probabilities(given)
    torch.testing.assert_close(mean, torch.stack(views).mean(dim=0))


def test_windows_overlap_and_are_averaged(segmenter):
    given = sample(height=HEIGHT, width=160)
    assert window_starts(160, WIDTH, 2 / 3) == [0, 64]
    source = ClassProbabilities(segmenter)
    pair = source.encode(given)
    scene = source.encode_scene([pair])  # of the whole frame, as at run time
    parts = []
    for left in (0, 64):
        columns = slice(left, left + WIDTH)
        part = EncodedPair(pair.rgb[:, columns], pair.x_image[:, columns], pair.modality)
        parts.append(source.probabilities([part], scene)[0])
    expected = torch.cat(
        [parts[0][..., :64], (parts[0][..., 64:] + parts[1][..., :32]) / 2, parts[1][..., 32:]], -1
    )
    for batch_size in (1, 2, 5):
        viewer = TtaSegmenter(segmenter, TtaConfig(fit=Fit.WINDOW), batch_size)
        torch.testing.assert_close(viewer.probabilities(given), expected, atol=1e-5, rtol=1e-4)


def test_windows_of_scaled_frames_come_back_to_the_frame(segmenter):
    given = sample(height=HEIGHT, width=WIDTH)
    config = TtaConfig(fit=Fit.WINDOW, scales=(0.5,))
    source = ClassProbabilities(segmenter)
    pair = source.encode(given)
    small = EncodedPair(
        fit_to_model(pair.rgb, 32, 48), fit_to_model(pair.x_image, 32, 48), pair.modality
    )
    [answer] = source.probabilities([small], source.encode_scene([pair]), (32, 64))  # 48 up to 64
    expected = F.interpolate(answer[None], (HEIGHT, WIDTH), mode="bilinear")[0]
    torch.testing.assert_close(TtaSegmenter(segmenter, config).probabilities(given), expected)


@pytest.mark.parametrize(
    ("length", "window", "stride", "expected"),
    [
        (10, 10, 2 / 3, [0]),
        (10, 4, 0.5, [0, 2, 4, 6]),
        (11, 4, 0.5, [0, 2, 4, 6, 7]),
        (5, 4, 1.0, [0, 1]),
        (8, 4, 1.0, [0, 4]),
    ],
)
def test_windows_cover_a_side_and_end_with_it(length, window, stride, expected):
    assert window_starts(length, window, stride) == expected


@pytest.mark.parametrize("fit", [Fit.WHOLE, Fit.WINDOW])
def test_mirrored_polarization_turns_the_other_way(segmenter, fit):
    given = sample(Modality.POLARIZATION, height=HEIGHT, width=160)
    swapped = np.ascontiguousarray(given.x[:, ::-1][..., [0, 3, 2, 1]])  # 45 and 135 degrees
    rgb = np.ascontiguousarray(given.rgb[:, ::-1])
    viewer = TtaSegmenter(segmenter, TtaConfig(fit=fit, flip=True))
    own = viewer.probabilities(given).flip(-1)
    # The mirrored scene seen by the same camera: the same answer, mirrored.
    physical = viewer.probabilities(RgbxSample(rgb, swapped, Modality.POLARIZATION))
    torch.testing.assert_close(physical, own, atol=1e-5, rtol=1e-4)
    # Mirrored pixels without turned angles show another scene.
    pixels = np.ascontiguousarray(given.x[:, ::-1])
    wrong = viewer.probabilities(RgbxSample(rgb, pixels, Modality.POLARIZATION))
    assert not torch.allclose(wrong, own, atol=1e-3)


def test_pixels_without_numbers_are_not_answered(segmenter, monkeypatch):
    engine = segmenter.engine

    def broken(batch, scene, real=engine.coarse_logits):
        logits = real(batch, scene).clone()
        logits[:, 3, :, :2] = float("nan")
        return logits

    monkeypatch.setattr(engine, "coarse_logits", broken)
    labels = TtaSegmenter(segmenter, TtaConfig(flip=True)).labels(sample())
    assert (labels[:, :8] == VOID).all()
    assert (labels[:, -8:] == VOID).all()  # of the mirrored view
    assert (labels[:, 24:-24] != VOID).all()


def test_x_that_does_not_fit_is_refused(segmenter):
    given = RgbxSample(sample().rgb, np.zeros((3, 4, 5, 6)), Modality.THERMAL)
    with pytest.raises(EncodingError):
        TtaSegmenter(segmenter, TtaConfig(flip=True)).labels(given)


def test_options_are_checked(segmenter):
    with pytest.raises(ValueError, match="scales are one or more factors"):
        TtaConfig(scales=())
    with pytest.raises(ValueError, match="scales are one or more factors"):
        TtaConfig(scales=(1.0, 9.0))
    with pytest.raises(ConfigError, match="size of a view: height"):
        ClassProbabilities(segmenter).probabilities(
            [ClassProbabilities(segmenter).encode(sample())], None, (8192, 64)
        )
    assert TtaConfig().is_single_pass
    assert not TtaConfig(flip=True).is_single_pass
    text = TtaConfig(fit=Fit.WINDOW, scales=(0.75, 1.0), flip=True).text(480, 640)
    assert text == "windows 640x480, stride 0.67, scales 0.75, 1, mirrored too"
