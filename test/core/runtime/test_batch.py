import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from segrgbx_core.base.modality import Modality
from segrgbx_core.runtime import batch as batch_module
from segrgbx_core.runtime.batch import (
    HostBuffers,
    InputConfig,
    ResizeMode,
    Window,
    fit_to_model,
    make_batch,
    place,
    with_border,
)
from segrgbx_core.sensors import EncodingConfig, PolarizationEncoding

CPU = torch.device("cpu")
SQUARE = InputConfig(height=64, width=64)
BOXED = InputConfig(height=64, width=64, resize_mode=ResizeMode.LETTERBOX)


def image(height, width, value=0):
    return np.full((height, width, 3), value, np.uint8)


def test_batch_holds_scaled_images_of_their_own_resolutions():
    rgbs = [image(48, 96, 255), image(30, 20, 51)]
    xs = [np.full((10, 12, 3), 0.25, np.float32), np.full((99, 7, 3), 0.5, np.float32)]
    modalities = [Modality.THERMAL, Modality.EVENT]
    made = make_batch(rgbs, xs, modalities, SQUARE)
    assert made.rgb.shape == made.x.shape == (2, 3, 64, 64)
    assert made.rgb.dtype == made.x.dtype == torch.float32
    assert made.modality.tolist() == [Modality.THERMAL.index, Modality.EVENT.index]
    torch.testing.assert_close(made.rgb[0], torch.ones(3, 64, 64))
    torch.testing.assert_close(made.rgb[1], torch.full((3, 64, 64), 0.2))
    torch.testing.assert_close(made.x[1], torch.full((3, 64, 64), 0.5))


def test_channels_keep_their_order():
    rgb = image(64, 64)
    rgb[:, :, 0] = 255
    made = make_batch([rgb], [np.zeros((64, 64, 3), np.float32)], [Modality.DEPTH], SQUARE)
    assert made.rgb[0].mean(dim=(1, 2)).tolist() == [1.0, 0.0, 0.0]


def test_letterbox_keeps_aspect_and_x_follows_rgb():
    spot = place(50, 100, BOXED)
    assert (spot.top, spot.left, spot.height, spot.width) == (16, 0, 32, 64)
    x = np.ones((80, 80, 3), np.float32)  # another aspect, the same field of view
    made = make_batch([image(50, 100, 200)], [x], [Modality.DEPTH], BOXED)
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
    event = make_batch([rgb], [x], [Modality.EVENT], SQUARE).x
    depth = make_batch([rgb], [x], [Modality.DEPTH], SQUARE).x
    assert set(event.unique().tolist()) <= {0.0, 1.0}
    torch.testing.assert_close(depth, torch.full_like(depth, 0.25))


def test_polarization_angles_are_never_mixed():
    x = np.zeros((128, 128, 3), np.float32)
    x[::2, ::2] = 1  # the same angle as 0
    angles = EncodingConfig(polarization=PolarizationEncoding(representation="aolp"))
    for encoding, values in ((angles, {0.0, 1.0}), (EncodingConfig(), {0.25}), (None, {0.25})):
        inputs = [image(64, 64)], [x], [Modality.POLARIZATION], SQUARE
        assert set(make_batch(*inputs, encoding).x.unique().tolist()) <= values


def test_nearest_takes_pixel_centres():
    x = np.arange(4, dtype=np.float32)[None, :, None].repeat(4, 0).repeat(3, 2)
    assert fit_to_model(x, 4, 8, linear=False)[0, :, 0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_an_image_of_the_right_size_is_untouched():
    rng = np.random.default_rng(0)
    x = rng.random((64, 64, 3), dtype=np.float32)
    made = make_batch([image(64, 64)], [x], [Modality.THERMAL], SQUARE)
    assert np.array_equal(made.x[0].permute(1, 2, 0).numpy(), x)


class Operators(TorchDispatchMode):
    """Notes which operators run."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        del types
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


def test_samples_are_chosen_in_order_and_without_a_tensor_of_indices():
    """Sending one to a GPU would wait for all that is queued there."""
    rgbs = [image(64, 64, value) for value in (10, 20, 30)]
    xs = [np.full((64, 64, 3), value, np.float32) for value in (0.1, 0.2, 0.3)]
    modalities = [Modality.THERMAL, Modality.EVENT, Modality.DEPTH]
    made = make_batch(rgbs, xs, modalities, SQUARE)
    with Operators() as operators:
        part = made.select([2, 0])
    assert operators.seen
    assert torch.ops.aten.index.Tensor not in operators.seen
    assert part.rgb_pixels[:, 0, 0, 0].tolist() == [30, 10]
    torch.testing.assert_close(part.x_pixels[:, 5, 5, 1], torch.tensor([0.3, 0.1]))
    assert part.modality.tolist() == [Modality.DEPTH.index, Modality.THERMAL.index]
    assert part.placements == (made.placements[2], made.placements[0])
    assert made.select([0, 1, 2]) is made


def test_buffers_alternate_and_are_reused():
    buffers = HostBuffers(CPU, reuse=True)
    seen = []
    for value in range(4):
        buffers.begin_batch()
        array = buffers.array("rgb", (2, 4, 4, 3), torch.uint8)
        array[:] = value
        assert buffers.array("x", (2, 4, 4, 3), torch.float32).dtype == np.float32
        [tensor] = buffers.to_device(array)
        seen.append(tensor)
    assert [int(tensor[0, 0, 0, 0]) for tensor in seen] == [2, 3, 2, 3]
    assert buffers.array("rgb", (3, 4, 4, 3), torch.uint8).shape == (3, 4, 4, 3)


def test_on_a_cpu_batches_have_their_own_memory():
    made = [
        make_batch(
            [image(64, 64, value)],
            [np.zeros((64, 64, 3), np.float32)],
            [Modality.DEPTH],
            SQUARE,
            buffers=HostBuffers(CPU),
        )
        for value in range(3)
    ]
    assert [int(batch.rgb_pixels[0, 0, 0, 0]) for batch in made] == [0, 1, 2]


def smooth(height, width):
    """Rises evenly to the right and down, so that every value tells its place."""
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    rows, columns = (rows + 0.5) / height, (columns + 0.5) / width
    return np.dstack([rows, columns, np.zeros_like(rows)]).astype(np.float32)


@pytest.mark.parametrize("size", [(30, 40), (60, 80), (15, 20), (30, 20)])
def test_a_window_of_everything_is_the_whole_image(rng, size):
    for image in (
        rng.random((30, 40, 3), np.float32),
        rng.integers(0, 255, (30, 40, 3), np.uint8),
    ):
        for linear in (True, False):
            whole = fit_to_model(image, *size, linear)
            np.testing.assert_array_equal(
                fit_to_model(image, *size, linear, Window(0, 0, 30, 40)), whole
            )


@pytest.mark.parametrize("scale", [0.4, 0.5, 1.0, 1.7, 3.0])
def test_a_window_shows_the_same_places_at_any_resolution_of_the_image(scale):
    """Training draws a window of RGB's grid out of an X that has more, or fewer, pixels."""
    window, size = Window(10, 21, 40, 50), (32, 48)
    drawn = fit_to_model(smooth(120, 160), *size, True, window)
    height, width = round(120 * scale), round(160 * scale)
    scaled = window.scaled(height / 120, width / 160)
    other = fit_to_model(smooth(height, width), *size, True, scaled)
    np.testing.assert_allclose(other, drawn, atol=2e-3)
    nearest = fit_to_model(smooth(height, width), *size, False, scaled)
    np.testing.assert_allclose(nearest, drawn, atol=0.75 / min(height, width) + 2e-3)


@pytest.mark.parametrize(
    ("start", "length", "count"), [(0, 8, 8), (0, 8, 4), (0.5, 6, 4), (1.25, 5.5, 11)]
)
def test_windows_between_pixels_by_hand(start, length, count):
    image = np.arange(8, dtype=np.float32)[None, :, None] / 8
    found = fit_to_model(image, 1, count, True, Window(0, start, 1, length))[0, :, 0]
    step = length / count
    fine = np.repeat(np.arange(8) / 8, 1000)  # each pixel in a thousand parts
    for number, value in enumerate(found):
        low, high = start + number * step, start + (number + 1) * step
        if step >= 1:
            expected = fine[round(low * 1000) : round(high * 1000)].mean()
        else:
            expected = np.clip(((low + high) / 2 - 0.5) / 8, 0, 7 / 8)
        assert value == pytest.approx(expected, abs=1e-3)


def test_nothing_is_mixed_between_pixels_where_values_must_not_be(rng):
    image = rng.integers(0, 255, (24, 32, 1), np.uint8)
    found = fit_to_model(image, 40, 40, False, Window(1.3, 2.6, 20.2, 25.1))
    assert set(np.unique(found)) <= set(np.unique(image))


def test_beyond_the_border_is_the_fill(rng):
    image = rng.random((20, 20, 3), np.float32)
    found = fit_to_model(image, 40, 50, True, Window(0, 0, 40, 50), (0.0, 0.5, 0.25))
    np.testing.assert_array_equal(found[:20, :20], image)
    assert (found[20:] == np.float32([0.0, 0.5, 0.25])).all()
    between = fit_to_model(image, 40, 50, True, Window(0.5, 0, 40, 50), (0.0, 0.5, 0.25))
    assert (between[22:] == np.float32([0.0, 0.5, 0.25])).all()


def test_sides_get_a_border_up_to_the_next_multiple_of_32():
    odd = InputConfig(height=70, width=64)
    assert odd.canvas == (96, 64)
    assert odd.model_copy(update={"pad": False}).canvas == (70, 64)
    x = [np.ones((10, 10, 3), np.float32)]
    made = make_batch([image(35, 32, 200)], x, [Modality.DEPTH], odd)
    assert made.rgb_pixels.shape == made.x_pixels.shape == (1, 96, 64, 3)
    assert made.border == (26, 0)
    assert (made.rgb_pixels[:, :70] == 200).all()
    assert (made.rgb_pixels[:, 70:] == torch.tensor(batch_module.RGB_BORDER)).all()
    assert (made.x_pixels[:, 70:] == 0).all()
    assert made.select([0, 0]).border == (26, 0)
    alone = made.without_border
    assert alone.rgb.shape == alone.x.shape == (1, 3, 70, 64)
    assert alone.without_border is alone
    # As training does it.
    assert torch.equal(with_border(alone.rgb, batch_module.RGB_BORDER), made.rgb)
    assert torch.equal(with_border(alone.x, (0, 0, 0)), made.x)
