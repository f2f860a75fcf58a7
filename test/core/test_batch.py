import numpy as np
import pytest
import torch

from segrgbx_core import batch as batch_module
from segrgbx_core.batch import (
    InputConfig,
    ResizeMode,
    decode_logits,
    make_batch,
    place,
    resize_image,
)
from segrgbx_core.modality import Modality

CPU = torch.device("cpu")
SQUARE = InputConfig(height=64, width=64)
BOXED = InputConfig(height=64, width=64, resize_mode=ResizeMode.LETTERBOX)


def image(height, width, value=0):
    return np.full((height, width, 3), value, np.uint8)


def test_batch_holds_scaled_images_of_their_own_resolutions():
    rgbs = [image(48, 96, 255), image(30, 20, 51)]
    xs = [np.full((10, 12, 3), 0.25, np.float32), np.full((99, 7, 3), 0.5, np.float32)]
    modalities = [Modality.THERMAL, Modality.EVENT]
    made = make_batch(rgbs, xs, modalities, SQUARE, CPU)
    assert made.rgb.shape == made.x.shape == (2, 3, 64, 64)
    assert made.rgb.dtype == made.x.dtype == torch.float32
    assert made.modality.tolist() == [Modality.THERMAL.index, Modality.EVENT.index]
    torch.testing.assert_close(made.rgb[0], torch.ones(3, 64, 64))
    torch.testing.assert_close(made.rgb[1], torch.full((3, 64, 64), 0.2))
    torch.testing.assert_close(made.x[1], torch.full((3, 64, 64), 0.5))


def test_channels_keep_their_order():
    rgb = image(64, 64)
    rgb[:, :, 0] = 255
    made = make_batch([rgb], [np.zeros((64, 64, 3), np.float32)], [Modality.DEPTH], SQUARE, CPU)
    assert made.rgb[0].mean(dim=(1, 2)).tolist() == [1.0, 0.0, 0.0]


def test_letterbox_keeps_aspect_and_x_follows_rgb():
    spot = place(50, 100, BOXED)
    assert (spot.top, spot.left, spot.height, spot.width) == (16, 0, 32, 64)
    x = np.ones((80, 80, 3), np.float32)  # another aspect, the same field of view
    made = make_batch([image(50, 100, 200)], [x], [Modality.DEPTH], BOXED, CPU)
    assert (made.x[0, :, 16:48] == 1).all()
    assert (made.x[0, :, :16] == 0).all()
    border = torch.tensor(batch_module.RGB_BORDER) / 255
    torch.testing.assert_close(made.rgb[0, :, 0, 0], border)
    torch.testing.assert_close(made.rgb[0, :, 47, 63], torch.full((3,), 200 / 255))


@pytest.mark.parametrize("size", [(1, 999), (999, 1), (64, 64), (63, 65)])
def test_letterbox_is_never_empty_nor_outside(size):
    spot = place(*size, BOXED)
    assert 1 <= spot.height <= 64
    assert 1 <= spot.width <= 64
    assert spot.top >= 0
    assert spot.left >= 0
    assert spot.top + spot.height <= 64
    assert spot.left + spot.width <= 64


def test_events_are_never_mixed_and_others_are_averaged():
    x = np.zeros((128, 128, 3), np.float32)
    x[::2, ::2] = 1
    rgb = image(64, 64)
    event = make_batch([rgb], [x], [Modality.EVENT], SQUARE, CPU).x
    depth = make_batch([rgb], [x], [Modality.DEPTH], SQUARE, CPU).x
    assert set(event.unique().tolist()) <= {0.0, 1.0}
    torch.testing.assert_close(depth, torch.full_like(depth, 0.25))


def test_nearest_takes_pixel_centres():
    x = np.arange(4, dtype=np.float32)[None, :, None].repeat(4, 0).repeat(3, 2)
    assert resize_image(x, 4, 8, linear=False)[0, :, 0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_an_image_of_the_right_size_is_untouched():
    rng = np.random.default_rng(0)
    x = rng.random((64, 64, 3), dtype=np.float32)
    made = make_batch([image(64, 64)], [x], [Modality.THERMAL], SQUARE, CPU)
    assert np.array_equal(made.x[0].permute(1, 2, 0).numpy(), x)


def reference(logits, size, min_confidence=0.0):
    whole = torch.nn.functional.interpolate(
        logits[None], size, mode="bilinear", align_corners=False
    )[0]
    probability, labels = whole.softmax(dim=0).max(dim=0)
    labels[probability < min_confidence] = 255
    return labels.numpy().astype(np.uint8), (probability * 255).round().numpy()


@pytest.mark.parametrize("size", [(64, 64), (48, 100), (200, 33), (5, 7)])
@pytest.mark.parametrize("band", [1, 1 << 12, 1 << 24])
def test_bands_equal_the_whole(monkeypatch, size, band):
    monkeypatch.setattr(batch_module, "_CPU_BAND", band)
    torch.manual_seed(0)
    logits = torch.randn(1, 9, 64, 64) * 3
    [(labels, confidence)] = decode_logits(logits, [place(*size, SQUARE)])
    expected_labels, expected_confidence = reference(logits[0], size)
    assert labels.shape == confidence.shape == size
    assert labels.dtype == confidence.dtype == np.uint8
    assert (labels != expected_labels).mean() < 1e-3  # ties within rounding
    assert np.abs(confidence - expected_confidence).max() <= 1


def test_answers_return_to_each_samples_grid():
    torch.manual_seed(0)
    config = InputConfig(height=64, width=64, resize_mode=ResizeMode.LETTERBOX)
    sizes = [(50, 100), (64, 64), (90, 30)]
    logits = torch.randn(3, 5, 64, 64)
    answers = decode_logits(logits, [place(*size, config) for size in sizes])
    assert [labels.shape for labels, _ in answers] == sizes
    upper, _ = reference(logits[0, :, 16:48], (50, 100))
    assert (answers[0][0] == upper).mean() > 0.999
    # A sample's answer does not depend on its place in the batch.
    alone = decode_logits(logits[2:], [place(90, 30, config)])[0]
    assert np.array_equal(alone[0], answers[2][0])
    assert np.array_equal(alone[1], answers[2][1])


def test_labels_survive_the_way_there_and_back():
    truth = np.zeros((40, 60), np.int64)
    truth[10:30, 20:50] = 3
    logits = torch.nn.functional.one_hot(torch.from_numpy(truth), 5).permute(2, 0, 1).float()[None]
    config = InputConfig(height=40, width=60)
    [(labels, confidence)] = decode_logits(logits * 20, [place(40, 60, config)])
    assert np.array_equal(labels, truth)
    assert confidence.min() == 255


def test_uncertain_pixels_become_void():
    logits = torch.zeros(1, 4, 64, 64)
    logits[0, 2, :, 32:] = 10
    [(labels, confidence)] = decode_logits(logits, [place(64, 64, SQUARE)], min_confidence=0.5)
    assert (labels[:, :32] == 255).all()
    assert (labels[:, 32:] == 2).all()
    assert confidence[0, 0] == round(255 / 4)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_become_void(broken):
    logits = torch.zeros(1, 4, 64, 64)
    logits[0, 1] = 5
    logits[0, 2, :10] = broken
    [(labels, confidence)] = decode_logits(logits, [place(64, 64, SQUARE)])
    assert (labels[:10] == 255).all()
    assert (confidence[:10] == 0).all()
    assert (labels[10:] == 1).all()


def test_logits_of_half_precision_are_decoded_in_full():
    torch.manual_seed(0)
    logits = torch.randn(1, 7, 64, 64).to(torch.bfloat16)
    [(labels, _)] = decode_logits(logits, [place(64, 64, SQUARE)])
    assert np.array_equal(labels, logits[0].float().argmax(0).numpy())
