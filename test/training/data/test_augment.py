"""Geometry is one for RGB, X and labels; photometry touches RGB alone; all of it by number."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from segrgbx_core.base.modality import MODALITIES, Modality
from segrgbx_core.labels.label_space import VOID
from segrgbx_core.runtime.batch import InputConfig, Window, fit_to_model, make_batch
from segrgbx_core.sensors import EncodingConfig, PolarizationEncoding
from training.data.augment import (
    AugmentConfig,
    Variant,
    Views,
    _draw_window,
    at_progress,
    augment,
    crop_resized,
    mirror,
    photometry,
    under_exposed,
)

ENCODING = EncodingConfig()
PLAIN = {"flip": 0.0, "jitter": 0.0, "blur": 0.0}


def frame(height=40, width=60, modality=Modality.THERMAL):
    """RGB's red and X show the id of a pixel's class, so that any slip between them is seen."""
    labels = torch.zeros(height, width, dtype=torch.uint8)
    labels[10:30, 20:45] = 100
    labels[25:38, 5:15] = 200
    rgb = torch.stack([labels, labels // 2, labels // 4])
    x = (labels.float() / 255).expand(3, -1, -1)
    return Views(rgb, x, labels, modality)


def config(**changes):
    return AugmentConfig(**{"crop_height": 32, "crop_width": 32, **changes})


@pytest.mark.parametrize("modality", list(MODALITIES))
def test_shapes_ranges_and_alignment_for_every_modality(modality):
    options = config(jitter=0.0, blur=0.0)
    for seed in range(20):
        views, variant = augment(
            frame(modality=modality), options, EncodingConfig(), np.random.default_rng(seed)
        )
        assert views.rgb.shape == views.x.shape == (3, 32, 32)
        assert views.labels.shape == (32, 32)
        assert views.rgb.dtype == views.x.dtype == torch.float32
        assert 0 <= views.rgb.min() <= views.rgb.max() <= 1
        assert variant in (Variant.PLAIN, Variant.MIRRORED)
        known = views.labels != VOID
        assert set(views.labels[known].unique().tolist()) <= {0, 100, 200}
        off = (views.rgb[0] * 255 - views.labels)[known].abs() > 110
        assert off.float().mean() < 0.06  # only pixels along edges mix two classes
        channel = 2 if modality is Modality.POLARIZATION else 0
        slip = (views.x[channel] - views.rgb[0]).abs()
        if modality.facts.resamples_linearly:
            assert slip.max() < 0.02  # RGB was rounded to 8 bits before
        else:
            assert (slip > 0.02).float().mean() < 0.25


def test_events_and_labels_are_never_mixed():
    views = crop_resized(frame(modality=Modality.EVENT), Window(3, 4, 30, 30), (64, 64), ENCODING)
    assert set((views.x * 255).round().unique().tolist()) <= {0.0, 100.0, 200.0}
    assert set(views.labels.unique().tolist()) <= {0, 100, 200}


def test_polarization_angles_are_not_averaged_over_their_wrap():
    """0 and 1 are the same angle; half way between them lies the one at a right angle to it."""
    x = torch.zeros(3, 32, 32)
    x[:, ::2] = 1
    views = Views(x, x, torch.zeros(32, 32, dtype=torch.uint8), Modality.POLARIZATION)
    angles = EncodingConfig(polarization=PolarizationEncoding(representation="aolp"))
    for size in ((48, 48), (16, 16)):
        found = crop_resized(views, Window(0, 0, 32, 32), size, angles).x
        assert set(found.unique().tolist()) <= {0.0, 1.0}
    assert len(crop_resized(views, Window(0, 0, 32, 32), (48, 48), ENCODING).x.unique()) > 2


@pytest.mark.parametrize("representation", ["stokes", "aolp", "dolp"])
@pytest.mark.parametrize("size", [(32, 40), (48, 60)])
def test_outside_stays_black_in_mirrored_polarization(representation, size):
    encoding = EncodingConfig(polarization=PolarizationEncoding(representation=representation))
    source, window = frame(20, 20, Modality.POLARIZATION), Window(0, 0, 32, 40)
    views = crop_resized(source, window, size, encoding, flipped=True)
    inside = size[1] // 2 + 1
    assert views.x[:, :, :-inside].abs().max() < 1e-6
    assert views.rgb[:, :, :-inside].max() == 0
    assert (views.labels[:, :-inside] == VOID).all()
    within = replace(window, height=20, width=20)
    seen = crop_resized(source, within, (20, 20), encoding, flipped=True)
    if size == (32, 40):
        assert torch.allclose(views.x[:, :20, -20:], seen.x)


def test_a_window_at_scale_one_is_a_plain_cut():
    source = frame()
    views = crop_resized(source, Window(5, 6, 20, 24), (20, 24), ENCODING)
    assert torch.equal(views.labels, source.labels[5:25, 6:30])
    assert torch.equal(views.rgb * 255, source.rgb[:, 5:25, 6:30].float())
    assert torch.equal(views.x, source.x[:, 5:25, 6:30])


def test_x_of_another_resolution_is_resampled_once():
    """An edge of X stays as sharp as its own pixels, and where RGB shows it."""
    source = frame()
    half = source.x[:, ::2, ::2].contiguous()  # edges lie at even rows and columns but one
    window, size = Window(10, 20, 16, 24), (32, 48)
    fine = crop_resized(source, window, size, ENCODING).x
    coarse = crop_resized(replace(source, x=half), window, size, ENCODING).x
    assert (coarse - fine).abs().mean() < 0.03
    whole = fit_to_model(half.permute(1, 2, 0).numpy(), 40, 60)  # as a reader once did, then cut
    twice = torch.from_numpy(whole).permute(2, 0, 1)
    again = crop_resized(replace(source, x=twice), window, size, ENCODING).x
    assert not torch.allclose(coarse, again, atol=0.02)


def test_the_whole_frame_is_what_inference_sees():
    """Bit by bit, RGB and X, at the same size."""
    source = replace(frame(), x=frame(20, 31).x.contiguous())
    views = crop_resized(source, Window(0, 0, 40, 60), (64, 96), ENCODING)
    batch = make_batch(
        [source.rgb.permute(1, 2, 0).numpy()],
        [source.x.permute(1, 2, 0).numpy()],
        [Modality.THERMAL],
        InputConfig(height=64, width=96),
    )
    assert torch.equal(batch.rgb[0], views.rgb)
    assert torch.equal(batch.x[0], views.x)


def test_outside_is_black_and_void():
    views = crop_resized(frame(20, 20), Window(0, 0, 32, 40), (32, 40), ENCODING)
    assert (views.labels[20:] == VOID).all()
    assert (views.labels[:, 20:] == VOID).all()
    assert views.rgb[:, 20:].max() == 0
    assert views.x[:, :, 20:].max() == 0


def test_enlarging_shows_less_and_shrinking_pads():
    near, _ = augment(
        frame(),
        config(**PLAIN, min_scale=2.0, max_scale=2.0),
        EncodingConfig(),
        np.random.default_rng(0),
    )
    far, _ = augment(
        frame(),
        config(**PLAIN, min_scale=0.5, max_scale=0.5),
        EncodingConfig(),
        np.random.default_rng(0),
    )
    assert (near.labels != VOID).all()
    assert (far.labels == VOID).float().mean() == pytest.approx(1 - 20 * 30 / 32 / 32, abs=0.05)


@pytest.mark.parametrize(("height", "width"), [(40, 60), (160, 120), (1042, 1042)])
def test_scales_of_the_crop_show_frames_of_any_resolution_alike(height, width):
    """At scale 1 the short side of the frame fills the crop, as where whole frames are scored."""
    options = config(**PLAIN, scale_of="crop", min_scale=1.0, max_scale=1.0)
    views, _ = augment(frame(height, width), options, ENCODING, np.random.default_rng(0))
    assert (views.labels != VOID).all()
    far, _ = augment(
        frame(height, width),
        config(**PLAIN, scale_of="crop", min_scale=0.5, max_scale=0.5),
        ENCODING,
        np.random.default_rng(0),
    )
    seen = min(1.0, 0.5 * max(height, width) / min(height, width)) * 0.5
    assert (far.labels != VOID).float().mean() == pytest.approx(seen, abs=0.03)


def test_scales_of_the_crop_are_drawn_evenly():
    options = config(scale_of="crop", min_scale=0.5, max_scale=2.0)
    rng = np.random.default_rng(0)
    scales = np.array([16 / _draw_window(512, 1024, options, rng).height for _ in range(4000)])
    scales *= 512 / 32 * 2
    counts = np.histogram(scales, bins=3, range=(0.5, 2.0))[0]
    assert counts.sum() == 4000
    assert np.abs(counts - 4000 / 3).max() < 150


def test_small_pictures_show_the_same_windows_by_either_scale():
    for scale_of in ("frame", "crop"):
        options = config(scale_of=scale_of, small_share=0.5, crop_height=64, crop_width=96)
        early, late = (
            _draw_window(300, 400, at_progress(options, moment), np.random.default_rng(3))
            for moment in (0.0, 1.0)
        )
        assert early == late


def test_mirroring_twice_is_nothing_and_mirrors_all_three():
    source = frame()
    once = mirror(source, EncodingConfig())
    assert torch.equal(once.labels, source.labels.flip(1))
    assert torch.equal(once.rgb, source.rgb.flip(2))
    assert torch.equal(once.x, source.x.flip(2))
    again = mirror(once, EncodingConfig())
    assert torch.equal(again.x, source.x)


def test_mirroring_turns_polarization_angles():
    angle = torch.tensor(0.3)
    x = torch.stack(
        [
            torch.full((4, 6), v)
            for v in (0.5, (torch.sin(2 * angle) + 1) / 2, (torch.cos(2 * angle) + 1) / 2)
        ]
    )
    x[0] = torch.linspace(0, 1, 6)
    views = Views(torch.zeros(3, 4, 6), x, torch.zeros(4, 6), Modality.POLARIZATION)
    mirrored = mirror(views, EncodingConfig()).x
    turned = torch.pi - angle
    assert torch.allclose(mirrored[0], x[0].flip(1))
    assert torch.allclose(mirrored[1], (torch.sin(2 * turned) + 1) / 2)
    assert torch.allclose(mirrored[2], (torch.cos(2 * turned) + 1) / 2)


def test_photometry_changes_rgb_within_range():
    rgb = torch.rand(3, 16, 16)
    changed = photometry(rgb, config(jitter=1.0, blur=1.0, noise=0.1), np.random.default_rng(0))
    assert changed.shape == rgb.shape
    assert not torch.equal(changed, rgb)
    assert 0 <= changed.min() <= changed.max() <= 1
    assert torch.equal(photometry(rgb, config(**PLAIN), np.random.default_rng(0)), rgb)


def test_a_dark_picture_keeps_the_lights_share_and_drowns_in_noise():
    grey = torch.full((3, 64, 64), 0.5)  # 0.214 of full scale on the linear scale
    rng = np.random.default_rng(0)
    whole, tenth, hundredth = (under_exposed(grey, share, rng) for share in (1.0, 0.1, 0.01))
    assert whole.mean() == pytest.approx(0.5, abs=0.002)
    assert tenth.mean() == pytest.approx(1.055 * 0.0214 ** (1 / 2.4) - 0.055, abs=0.003)
    ratios = [float(picture.std() / picture.mean()) for picture in (whole, tenth, hundredth)]
    assert ratios == sorted(ratios)
    assert ratios[2] > 10 * ratios[0]
    assert torch.equal(tenth, (tenth * 255).round() / 255)
    assert 0.0 <= hundredth.min() <= hundredth.max() <= 1.0


def test_darkness_comes_by_its_probability():
    rgb = torch.full((3, 16, 16), 0.5)
    dark = [
        bool(photometry(rgb, config(**PLAIN, dark=0.3), np.random.default_rng(seed)).mean() < 0.45)
        for seed in range(200)
    ]
    assert 0.15 < np.mean(dark) < 0.35


def test_x_is_untouched_by_photometry():
    loud, _ = augment(
        frame(),
        config(flip=0.0, jitter=1.0, blur=1.0, noise=0.2),
        EncodingConfig(),
        np.random.default_rng(3),
    )
    calm, _ = augment(frame(), config(**PLAIN), EncodingConfig(), np.random.default_rng(3))
    assert torch.equal(loud.x, calm.x)
    assert torch.equal(loud.labels, calm.labels)
    assert not torch.equal(loud.rgb, calm.rgb)


def test_a_modality_can_be_dropped_but_never_both():
    seen = set()
    for seed in range(60):
        views, variant = augment(
            frame(),
            config(drop_x=0.5, drop_rgb=0.5),
            EncodingConfig(),
            np.random.default_rng(seed),
        )
        seen.add(variant)
        assert (views.x.max() == 0) == (variant is Variant.WITHOUT_X)
        assert (views.rgb.max() == 0) == (variant is Variant.WITHOUT_RGB)
    assert seen == set(Variant)


def test_a_run_may_begin_with_smaller_pictures_of_the_same_views():
    options = config(small_share=0.5, small_scale=0.5, crop_height=80, crop_width=128)
    early, late = at_progress(options, 0.49), at_progress(options, 0.5)
    assert late == options
    assert (early.crop_height, early.crop_width) == (40, 64)
    assert early.crop_height / early.min_scale == options.crop_height / options.min_scale
    assert early.crop_width / early.max_scale == options.crop_width / options.max_scale


def test_the_same_number_gives_the_same_view():
    first, _ = augment(frame(), config(), EncodingConfig(), np.random.default_rng((7, 1, 5)))
    again, _ = augment(frame(), config(), EncodingConfig(), np.random.default_rng((7, 1, 5)))
    other, _ = augment(frame(), config(), EncodingConfig(), np.random.default_rng((7, 1, 6)))
    assert torch.equal(first.rgb, again.rgb)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.rgb, other.rgb)
