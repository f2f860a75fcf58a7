"""Eq. 8 against a slow numpy version, its void rules, class weights and sampled pixels."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from segrgbx_core.base.errors import ConfigError
from segrgbx_core.labels.label_space import VOID, LabelSpace, unified_label_space
from segrgbx_core.labels.tables import NativeSpace
from training.stage2.losses import (
    LossConfig,
    SegmentationLoss,
    inverse_root_weights,
    sample_points,
    tabled_weights,
)

RED, GREEN, BLUE, WHITE, GREY = (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1), (2, 2, 2)


def space():
    names = ("road", "car", "person", "sky", "tree")
    city = native("city", names, ("person", "road"))
    park = native("park", names, ("sky", "tree", "road"))
    return LabelSpace(names, (RED, GREEN, BLUE, WHITE, GREY), (city, park))


def native(name, unified, names):
    return NativeSpace(
        name=name,
        modality=None,
        names=names,
        palette=(RED, GREEN, BLUE)[: len(names)],
        to_unified=tuple(unified.index(one) for one in names),
        file_offset=0,
        void_file_values=(255,),
    )


def slow(label_space, logits, labels, native, weights=None, ignored=()):
    """Both terms of Eq. 8, pixel by pixel in float64."""
    sums = {"unified": [0.0, 0.0], "native": [0.0, 0.0]}
    weights = np.ones(label_space.num_classes) if weights is None else weights
    for b in range(len(labels)):
        columns = label_space.natives[native[b]].to_unified
        for row, column in np.ndindex(*labels[b].shape):
            truth = int(labels[b, row, column])
            if truth == VOID:
                continue
            z = logits[b, :, row, column].astype(np.float64)
            for term, chosen in (("unified", list(range(len(z)))), ("native", list(columns))):
                if term == "unified" and (native[b], truth) in ignored:
                    continue
                cost = np.log(np.exp(z[chosen]).sum()) - z[truth]
                sums[term][0] += weights[truth] * cost
                sums[term][1] += weights[truth]
    return {term: total / weight if weight else 0.0 for term, (total, weight) in sums.items()}


def batch(rng, label_space, native=(0, 1, 1)):
    logits = rng.normal(size=(len(native), label_space.num_classes, 4, 5)).astype(np.float32) * 2
    labels = np.stack(
        [rng.choice([*label_space.natives[k].to_unified, VOID], size=(4, 5)) for k in native]
    )
    return logits, labels.astype(np.int64), np.array(native)


def run(loss, logits, labels, native):
    return loss(torch.from_numpy(logits), torch.from_numpy(labels), torch.from_numpy(native))


@pytest.mark.parametrize("native", [(0, 0), (0, 1, 1), (1, 0, 1, 0)])
@pytest.mark.parametrize("weighted", [False, True])
def test_equals_the_slow_version_in_mixed_batches(rng, native, weighted):
    label_space = space()
    logits, labels, native = batch(rng, label_space, native)
    weights = rng.uniform(0.5, 3, 5).astype(np.float32) if weighted else None
    config = LossConfig(unified_weight=0.7, native_weight=1.3)
    loss = SegmentationLoss(
        label_space, config, None if weights is None else torch.from_numpy(weights)
    )
    terms = run(loss, logits, labels, native)
    expected = slow(label_space, logits, labels, native, weights)
    assert terms["unified"].item() == pytest.approx(expected["unified"], rel=1e-5)
    assert terms["native"].item() == pytest.approx(expected["native"], rel=1e-5)
    assert terms["loss"].item() == pytest.approx(
        0.7 * expected["unified"] + 1.3 * expected["native"], rel=1e-5
    )


def test_all_void_costs_nothing_and_keeps_a_gradient_path():
    logits = torch.randn(2, 5, 3, 3, requires_grad=True)
    labels = torch.full((2, 3, 3), VOID)
    terms = SegmentationLoss(space())(logits, labels, torch.tensor([0, 1]))
    assert terms["loss"].item() == 0.0
    terms["loss"].backward()
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_one_void_sample_does_not_dilute_the_others(rng):
    label_space = space()
    logits, labels, native = batch(rng, label_space, (0, 1))
    labels[1] = VOID
    both = run(SegmentationLoss(label_space), logits, labels, native)
    alone = run(SegmentationLoss(label_space), logits[:1], labels[:1], native[:1])
    assert both["loss"].item() == pytest.approx(alone["loss"].item(), rel=1e-6)


def test_classes_can_be_left_to_the_native_term(rng):
    label_space = space()
    logits, labels, native = batch(rng, label_space)
    loss = SegmentationLoss(label_space, LossConfig(unified_ignore=("park.tree",)))
    terms = run(loss, logits, labels, native)
    expected = slow(label_space, logits, labels, native, ignored={(1, 4)})
    assert terms["unified"].item() == pytest.approx(expected["unified"], rel=1e-5)
    assert terms["native"].item() == pytest.approx(expected["native"], rel=1e-5)
    with pytest.raises(ConfigError, match="did you mean 'tree'"):
        SegmentationLoss(label_space, LossConfig(unified_ignore=("park.tre",)))


def test_native_term_does_not_move_classes_of_other_data_sets(rng):
    label_space = space()
    logits, labels, native = batch(rng, label_space, (0, 0))
    tensor = torch.from_numpy(logits).requires_grad_()
    loss = SegmentationLoss(label_space, LossConfig(unified_weight=0.0))
    loss(tensor, torch.from_numpy(labels), torch.from_numpy(native))["loss"].backward()
    outside = [i for i in range(5) if i not in label_space.natives[0].to_unified]
    assert torch.equal(tensor.grad[:, outside], torch.zeros_like(tensor.grad[:, outside]))


def test_half_precision_logits_are_summed_in_float32(rng):
    logits, labels, native = batch(rng, space())
    loss = SegmentationLoss(space())
    full = run(loss, logits, labels, native)["loss"]
    half = loss(
        torch.from_numpy(logits).bfloat16(), torch.from_numpy(labels), torch.from_numpy(native)
    )["loss"]
    assert half.dtype is torch.float32
    assert half.item() == pytest.approx(full.item(), rel=2e-2)


def test_sampled_pixels_read_what_the_enlarged_map_holds():
    coarse = torch.randn(2, 5, 6, 8)
    labels = torch.arange(2 * 24 * 32).reshape(2, 24, 32)
    enlarged = F.interpolate(coarse, (24, 32), mode="bilinear", align_corners=False)
    points, ids = sample_points(coarse, labels, 300, torch.Generator().manual_seed(0))
    for image in range(2):
        flat = (ids[image] - image * 24 * 32).tolist()
        expected = enlarged[image].flatten(1)[:, flat]
        torch.testing.assert_close(points[image], expected, atol=1e-5, rtol=1e-5)


def test_points_of_logits_that_reach_beyond_the_labels():
    """Logits over a padded input are read where the image is."""
    coarse = torch.randn(2, 5, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(2 * 20 * 30).view(2, 20, 30)  # every pixel its own label
    picked, ids = sample_points(coarse, labels, 50, size=(32, 32))
    whole = F.interpolate(coarse, (32, 32), mode="bilinear")[..., :20, :30].flatten(2)
    place = ids - torch.tensor([[0], [600]])
    torch.testing.assert_close(picked, whole.gather(2, place[:, None].expand(-1, 5, -1)))


def test_sampled_loss_is_the_full_loss_on_average():
    generator = torch.Generator().manual_seed(1)
    label_space = space()
    coarse = torch.randn(1, 5, 6, 8, generator=generator)
    labels = torch.randint(0, 3, (1, 24, 32), generator=generator)
    labels = torch.tensor(label_space.natives[1].to_unified)[labels]
    loss, native = SegmentationLoss(label_space), torch.tensor([1])
    full = loss(F.interpolate(coarse, (24, 32), mode="bilinear"), labels, native)["loss"]
    sampled = loss(*sample_points(coarse, labels, 40_000, generator), native)["loss"]
    assert sampled.item() == pytest.approx(full.item(), rel=0.02)


def test_rare_classes_weigh_more_within_limits():
    counts = np.array([900_000, 90_000, 10_000, 10, 0])
    weights = inverse_root_weights(counts, largest=4.0)
    assert weights[0] < weights[1] < weights[2] <= weights[3] <= 4.0
    assert weights[4] == 1.0
    assert float((weights * counts).sum() / counts.sum()) == pytest.approx(1.0, abs=0.05)
    assert np.allclose(inverse_root_weights(np.array([5, 5])), 1.0)


def slow_hard(costs, weights, below, share):
    """The hard pixels one by one, as the published code takes them."""
    order = np.argsort(-costs)
    hard = [k for k in order if costs[k] > -np.log(below)]
    least = max(1, int(len(costs) * share))
    chosen = hard if len(hard) >= least else order[:least]
    return (costs[chosen] * weights[chosen]).sum() / weights[chosen].sum()


@pytest.mark.parametrize(("shift", "share"), [(0.0, 1 / 16), (6.0, 1 / 16), (6.0, 0.5)])
def test_only_hard_pixels_count(rng, shift, share):
    """A large shift makes all pixels easy, so that the share decides."""
    label_space = space()
    logits, labels, native = batch(rng, label_space)
    for b, row, column in np.ndindex(*labels.shape):
        if labels[b, row, column] != VOID:
            logits[b, labels[b, row, column], row, column] += shift
    weights = rng.uniform(0.5, 3, 5).astype(np.float32)
    config = LossConfig(hard_below=0.7, hard_share=share)
    terms = run(
        SegmentationLoss(label_space, config, torch.from_numpy(weights)), logits, labels, native
    )
    costs = {"unified": [], "native": []}
    counted = []
    for b, row, column in np.ndindex(*labels.shape):
        truth = int(labels[b, row, column])
        if truth == VOID:
            continue
        z = logits[b, :, row, column].astype(np.float64)
        columns = label_space.natives[native[b]].to_unified
        counted.append(weights[truth])
        for term, chosen in (("unified", list(range(5))), ("native", list(columns))):
            costs[term].append(np.log(np.exp(z[chosen]).sum()) - z[truth])
    for term, found in costs.items():
        expected = slow_hard(np.array(found), np.array(counted), 0.7, share)
        assert terms[term].item() == pytest.approx(expected, rel=1e-4)


def test_easy_pixels_get_no_gradient_and_void_costs_nothing():
    logits = torch.zeros(1, 5, 1, 32)
    logits[0, 0] = 9.0
    logits[0, 0, 0, :4] = -9.0
    logits.requires_grad_()
    loss = SegmentationLoss(space(), LossConfig(hard_below=0.7))
    loss(logits, torch.zeros(1, 1, 32, dtype=torch.int64), torch.tensor([0]))["loss"].backward()
    touched = logits.grad.abs().sum(dim=1).flatten() > 0
    assert touched.tolist() == [True] * 4 + [False] * 28
    empty = torch.randn(2, 5, 3, 3, requires_grad=True)
    terms = loss(empty, torch.full((2, 3, 3), VOID), torch.tensor([0, 1]))
    assert terms["loss"].item() == 0.0
    terms["loss"].backward()
    assert torch.equal(empty.grad, torch.zeros_like(empty))


def test_tables_weigh_single_classes():
    label_space = space()
    assert tabled_weights(label_space, {}, None) is None
    weights = tabled_weights(label_space, {"car": 3.0, "park.tree": 0.5}, None)
    assert weights.tolist() == [1.0, 3.0, 1.0, 1.0, 0.5]
    base = torch.tensor([2.0, 2.0, 1.0, 1.0, 1.0])
    assert tabled_weights(label_space, {"car": 3.0}, base).tolist() == [2.0, 6.0, 1.0, 1.0, 1.0]
    assert base[1] == 2.0
    for wrong, text in (({"cra": 1.0}, "did you mean 'car'"), ({"park.tre": 1}, "'tree'"),
                        ({"car": -1.0}, "is below 0")):  # fmt: skip
        with pytest.raises(ConfigError, match=f"class_weight_table.*{text}"):
            tabled_weights(label_space, wrong, None)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_maps_cost_what_their_pixels_cost(weighted, layout):
    """All pixels at once have their own, faster way; its value and gradient are the plain ones."""
    space = unified_label_space()
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(space.num_classes, generator=generator) if weighted else None
    config = LossConfig(native_weight=0.7, unified_ignore=("mfnet.bump",))
    loss = SegmentationLoss(space, config, weights)
    maps = torch.randn(3, space.num_classes, 9, 11, generator=generator)
    native = torch.tensor([1, 0, 1])  # two data sets in one batch
    names = [space.natives[place].name for place in native.tolist()]
    columns = [torch.from_numpy(space.project_index(name)) for name in names]
    labels = torch.stack(
        [own[torch.randint(len(own), (9, 11), generator=generator)] for own in columns]
    )
    labels[:, :2] = VOID
    labels[1] = VOID  # a sample without any label
    share = torch.tensor([0.25, 0.5])
    results = []
    for ndim in (4, 3):
        logits = maps.clone().to(memory_format=layout).requires_grad_()
        given = (logits, labels) if ndim == 4 else (logits.flatten(2), labels.flatten(1))
        terms = loss(*given, native, share)
        (3 * terms["loss"]).backward()
        results.append({**terms, "gradient": logits.grad})
    for name, value in results[0].items():
        torch.testing.assert_close(value, results[1][name], msg=name)
    nothing = loss(maps.requires_grad_(), torch.full_like(labels, VOID), native)
    nothing["loss"].backward()
    assert nothing["loss"] == 0
    assert (maps.grad == 0).all()
