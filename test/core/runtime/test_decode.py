"""Logits to labels and confidence: against the plain way, on every grid, with broken numbers."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from segrgbx_core.base.errors import ModelOutputError
from segrgbx_core.runtime.batch import InputConfig, ResizeMode, place
from segrgbx_core.runtime.decode import (
    InterpolationCache,
    _candidates,
    decode_logits,
    rgb_interpolation,
)
from segrgbx_core.runtime.options import ConfidenceKind

SQUARE = InputConfig(height=64, width=64)
BOXED = InputConfig(height=64, width=64, resize_mode=ResizeMode.LETTERBOX)


def reference(logits, size, min_confidence=0.0):
    """Every class at full size, in the way every text book does it."""
    whole = F.interpolate(logits[None], size, mode="bilinear", align_corners=False)[0]
    probability, labels = whole.softmax(dim=0).max(dim=0)
    labels[probability < min_confidence] = 255
    return labels.numpy().astype(np.uint8), (probability * 255).round().numpy()


def assert_like(answer, expected):
    assert (answer[0] != expected[0]).mean() < 1e-3  # ties within rounding
    assert np.abs(answer[1] - expected[1]).max() <= 1


def trained_looking(num_classes=9, side=16, seed=0):
    """Smooth logits in which a few classes win and the others lie far below."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, num_classes, 4, 4, generator=generator) * 4
    coarse[:, num_classes // 2 :] -= 20
    return F.interpolate(coarse, (side, side), mode="bicubic")


@pytest.mark.parametrize("size", [(64, 64), (48, 100), (200, 33), (5, 7), (1, 1)])
@pytest.mark.parametrize("tile", [1, 1 << 12, 1 << 24])
def test_tiles_equal_the_whole(size, tile):
    torch.manual_seed(0)
    logits = torch.randn(1, 9, 64, 64) * 3
    [(labels, confidence)] = decode_logits(logits, [place(*size, SQUARE)], tile=tile)
    assert labels.shape == confidence.shape == size
    assert labels.dtype == confidence.dtype == np.uint8
    assert_like((labels, confidence), reference(logits[0], size))


@pytest.mark.parametrize("size", [(64, 64), (48, 100), (33, 200)])
def test_coarse_logits_go_straight_to_the_rgb_grid(size):
    logits = trained_looking()
    [answer] = decode_logits(logits, [place(*size, SQUARE)], input_size=(64, 64))
    assert_like(answer, reference(logits[0], size))


def test_one_step_equals_two_where_rgb_has_the_size_of_the_input():
    """Also inside a letterbox: there the first step alone resizes and the second only crops."""
    logits = trained_looking()
    whole = F.interpolate(logits, (64, 64), mode="bilinear", align_corners=False)
    for size in ((64, 64), (32, 64), (64, 40)):
        spot = place(*size, BOXED)
        [one] = decode_logits(logits, [spot], input_size=(64, 64))
        [two] = decode_logits(whole, [spot])
        assert_like(one, two)


def test_one_step_is_close_to_two_where_sizes_differ():
    """Two steps smooth the kinks between logits; only pixels on class borders notice."""
    logits = trained_looking()
    whole = F.interpolate(logits, (64, 64), mode="bilinear", align_corners=False)
    for config in (SQUARE, BOXED):
        spot = place(90, 200, config)
        [one] = decode_logits(logits, [spot], input_size=(64, 64))
        [two] = decode_logits(whole, [spot])
        assert (one[0] == two[0]).mean() > 0.99


def test_input_sizes_that_are_no_multiple_of_the_logits():
    """A 7x7 convolution of stride 4 makes 17 columns of 65 pixels."""
    torch.manual_seed(0)
    logits = torch.randn(1, 5, 17, 9)
    spot = place(65, 33, InputConfig(height=65, width=33))
    [answer] = decode_logits(logits, [spot], input_size=(65, 33))
    assert_like(answer, reference(logits[0], (65, 33)))


def test_losers_are_joined_and_nothing_changes():
    logits = trained_looking(num_classes=71)
    kept, codes = _candidates(logits[0])
    assert len(kept) == len(codes) + 1 < 40
    [(labels, confidence)] = decode_logits(logits, [place(200, 160, SQUARE)], 0.0, (64, 64))
    expected = reference(logits[0], (200, 160))
    assert np.array_equal(labels, expected[0])
    gap = expected[1] - confidence
    assert gap.min() >= 0  # never surer than the model
    assert gap.max() <= 1


def test_rivals_everywhere_are_all_kept():
    torch.manual_seed(0)
    logits = torch.randn(12, 32, 32)
    assert len(_candidates(logits)[0]) == 12
    assert len(_candidates(logits[:, :1])[0]) == 12


def test_many_losers_together_lower_the_confidence():
    """Seventy classes that each lose clearly may outweigh the one that wins."""
    logits = torch.full((1, 71, 4, 4), -3.0)
    logits[:, 7] = 0
    [(labels, confidence)] = decode_logits(logits, [place(16, 16, SQUARE)], 0.0, (64, 64))
    assert (labels == 7).all()
    assert (confidence == round(255 / (1 + 70 * np.exp(-3)))).all()
    [(labels, _)] = decode_logits(logits, [place(16, 16, SQUARE)], 0.5, (64, 64))
    assert (labels == 255).all()


def test_of_equal_classes_the_first_wins():
    logits = torch.zeros(1, 6, 8, 8)
    logits[:, 0] = -1
    [(labels, _)] = decode_logits(logits, [place(30, 30, SQUARE)])
    assert (labels == 1).all()


def test_answers_return_to_each_samples_grid():
    torch.manual_seed(0)
    sizes = [(50, 100), (64, 64), (90, 30)]
    logits = torch.randn(3, 5, 64, 64)
    answers = decode_logits(logits, [place(*size, BOXED) for size in sizes])
    assert [labels.shape for labels, _ in answers] == sizes
    inner, _ = reference(logits[0, :, 16:48], (50, 100))
    rows = slice(2, -2)  # at its edge a picture now sees the border's logits
    assert (answers[0][0][rows] == inner[rows]).mean() > 0.999
    # A sample's answer does not depend on its place in the batch.
    alone = decode_logits(logits[2:], [place(90, 30, BOXED)])[0]
    assert np.array_equal(alone[0], answers[2][0])
    assert np.array_equal(alone[1], answers[2][1])


def test_labels_survive_the_way_there_and_back():
    truth = np.zeros((40, 60), np.int64)
    truth[10:30, 20:50] = 3
    logits = F.one_hot(torch.from_numpy(truth), 5).permute(2, 0, 1).float()[None]
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


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), float("-inf")])
def test_logits_that_are_no_numbers_become_void_where_they_are(broken):
    logits = torch.zeros(1, 4, 64, 64)
    logits[0, 1] = 5
    logits[0, 2, :10] = broken
    [(labels, confidence)] = decode_logits(logits, [place(64, 64, SQUARE)])
    assert (labels[:10] == 255).all()
    assert (confidence[:10] == 0).all()
    assert (labels[10:] == 1).all()


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), float("-inf")])
def test_a_frame_without_one_finite_logit_is_an_error(broken):
    fine, bad = torch.rand(1, 4, 16, 16), torch.full((1, 4, 16, 16), broken)
    spots = [place(30, 30, SQUARE)] * 2
    with pytest.raises(ModelOutputError, match="the frame has no finite logit"):
        decode_logits(bad, spots[:1])
    with pytest.raises(ModelOutputError, match="sample 2 of 2 has no finite logit"):
        decode_logits(torch.cat([fine, bad]), spots)
    with pytest.raises(ModelOutputError):
        decode_logits(bad, spots[:1], columns=[torch.tensor([1, 2])])


def test_a_frame_that_is_void_for_its_confidence_is_none():
    logits = torch.zeros(1, 200, 16, 16)
    logits[0, :, 0, 0] = torch.nan
    [(labels, _)] = decode_logits(logits, [place(16, 16, SQUARE)], min_confidence=0.9)
    assert (labels == 255).all()


def test_large_logits_stay_numbers():
    logits = torch.tensor([-3e38, 3e38, 0.0])[None, :, None, None].expand(1, 3, 8, 8)
    [(labels, confidence)] = decode_logits(logits, [place(20, 20, SQUARE)])
    assert (labels == 1).all()
    assert (confidence == 255).all()


def test_logits_of_half_precision_are_decoded_in_full():
    torch.manual_seed(0)
    logits = torch.randn(1, 7, 64, 64).to(torch.bfloat16)
    [(labels, _)] = decode_logits(logits, [place(64, 64, SQUARE)])
    assert np.array_equal(labels, logits[0].float().argmax(0).numpy())


@pytest.mark.parametrize("kind", list(ConfidenceKind))
def test_what_the_confidence_says(kind):
    logits = trained_looking(num_classes=6, seed=3)
    whole = F.interpolate(logits, (40, 50), mode="bilinear", align_corners=False)[0].softmax(dim=0)
    first, second = whole.topk(2, dim=0).values
    entropy = -(whole * whole.log()).sum(dim=0) / np.log(len(whole))
    expected = {
        ConfidenceKind.MAX_PROB: first,
        ConfidenceKind.MARGIN: first - second,
        ConfidenceKind.ENTROPY: 1 - entropy,
    }[kind]
    [(labels, confidence)] = decode_logits(
        logits, [place(40, 50, SQUARE)], 0.0, (64, 64), kind=kind
    )
    assert np.abs(confidence - (expected * 255).round().numpy()).max() <= 1
    assert (labels != whole.argmax(dim=0).numpy()).mean() < 1e-3


@pytest.mark.parametrize("kind", [ConfidenceKind.MARGIN, ConfidenceKind.ENTROPY])
def test_undecided_pixels_have_no_confidence_and_one_class_has_all(kind):
    flat = torch.zeros(1, 4, 8, 8)
    [(labels, confidence)] = decode_logits(flat, [place(16, 16, SQUARE)], 0.2, kind=kind)
    assert (labels == 0).all(), "the threshold is one of probability, which is 0.25 here"
    assert (confidence == 0).all()
    [(_, confidence)] = decode_logits(flat[:, :1], [place(16, 16, SQUARE)], kind=kind)
    assert (confidence == 255).all()


def test_every_sample_may_choose_among_its_own_classes():
    logits = torch.cat([trained_looking(seed=1), trained_looking(seed=1)])
    spots = [place(30, 30, SQUARE)] * 2
    part = torch.tensor([4, 1, 2])
    unified, native = decode_logits(logits, spots, columns=[None, part])
    [alone] = decode_logits(logits[:1], spots[:1])
    [chosen] = decode_logits(logits[1:, part], spots[1:])
    for answer, expected in ((unified, alone), (native, chosen)):
        np.testing.assert_array_equal(answer[0], expected[0])
        np.testing.assert_array_equal(answer[1], expected[1])
    assert set(np.unique(native[0])) <= {0, 1, 2}


def test_interpolations_are_made_and_sent_to_the_device_once():
    """A copy to a GPU would wait for the network, so that nothing of the decoding is queued."""
    logits, spot = torch.zeros(3, 16, 16), place(48, 100, BOXED)
    with torch.inference_mode():
        first = rgb_interpolation(logits, spot, (64, 64))
    again = rgb_interpolation(logits + 1, place(48, 100, BOXED), (64, 64))
    assert all(one.weights is other.weights for one, other in zip(first, again, strict=True))
    assert not again[0].weights.is_inference(), "another caller may want gradients"
    others = [
        rgb_interpolation(logits, place(48, 100, SQUARE), (64, 64)),
        rgb_interpolation(logits, spot, (128, 128)),
        rgb_interpolation(logits[:, :8], spot, (64, 64)),
        rgb_interpolation(logits.double(), spot, (64, 64)),
        rgb_interpolation(logits.to("meta"), spot, (64, 64)),
    ]
    assert all(axes[0].weights is not first[0].weights for axes in others)
    assert others[-1][0].weights.device.type == "meta"


def test_few_interpolations_are_kept_and_large_ones_not_at_all():
    cache, logits = InterpolationCache(max_bytes=4 * 4 * (5 + 100)), torch.zeros(3, 4, 4)

    def get(width):
        return cache.get(logits, place(5, width, SQUARE), (64, 64))[1].weights

    first = get(40)
    assert get(40) is first
    get(41)
    assert get(40) is first, "both fit"
    get(80)
    assert get(40) is not first
    large = get(4000)
    assert get(4000) is not large
    assert get(40) is get(40)
