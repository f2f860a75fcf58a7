"""Eq. 1: against open_clip's losses, by hand, and over two processes."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from training.stage1.contrastive import (
    Contrast,
    ContrastiveConfig,
    ContrastiveLoss,
    sigmoid_contrast,
    softmax_contrast,
)

ROOT = Path(__file__).resolve().parents[3]


def batch(pairs=6, width=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rgb, x, text = torch.randn(3, pairs, width, generator=generator, dtype=torch.float64).float()
    return rgb, x, text, torch.arange(pairs) * 1001


@pytest.mark.clip
def test_equals_open_clips_loss_on_repeated_texts_up_to_the_constant():
    open_clip = pytest.importorskip("open_clip")
    rgb, x, text, caption = batch()
    rgb.requires_grad_(True)
    x.requires_grad_(True)
    ours = ContrastiveLoss(ContrastiveConfig(), scale=14.3)(rgb, x, text, caption)["loss"]
    ours_gradients = torch.autograd.grad(ours, [rgb, x])
    images = F.normalize(torch.cat([rgb, x]), dim=-1)
    texts = F.normalize(torch.cat([text, text]), dim=-1)
    theirs = open_clip.loss.ClipLoss()(images, texts, torch.tensor(14.3))
    assert float((theirs - ours).detach()) == pytest.approx(math.log(2) / 2, abs=2e-6)
    for own, other in zip(ours_gradients, torch.autograd.grad(theirs, [rgb, x]), strict=True):
        torch.testing.assert_close(own, other, atol=1e-6, rtol=1e-4)


@pytest.mark.clip
def test_sigmoid_equals_open_clips_where_every_text_has_one_image():
    open_clip = pytest.importorskip("open_clip")
    images, texts = F.normalize(torch.randn(2, 5, 8), dim=-1)
    scale, bias = torch.tensor(10.0), torch.tensor(-10.0)
    theirs = open_clip.loss.SigLipLoss()(images, texts, scale, bias)
    ours = sigmoid_contrast(scale * images @ texts.T + bias, torch.eye(5))
    torch.testing.assert_close(ours, theirs)


def test_softmax_by_hand():
    logits = torch.tensor([[2.0, 0.0], [1.0, 1.0], [0.0, 3.0]])
    affinity = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    rows = [math.log(1 + math.exp(-2)), math.log(2), math.log(1 + math.exp(-3))]
    first = math.log(math.exp(2) + math.exp(1) + 1) - (2 + 1) / 2
    second = math.log(1 + math.exp(1) + math.exp(3)) - 3
    expected = 0.5 * (sum(rows) / 3 + (first + second) / 2)
    assert float(softmax_contrast(logits, affinity)) == pytest.approx(expected, abs=1e-6)


def test_equal_captions_are_positives_of_each_other():
    text = F.normalize(torch.randn(3, 16), dim=-1)
    text = torch.stack([text[0], text[0], text[1]])
    loss = ContrastiveLoss(ContrastiveConfig(), scale=100.0)
    as_one = loss(text, text, text, torch.tensor([7, 7, 9]))
    as_two = loss(text, text, text, torch.tensor([7, 8, 9]))
    # Only the unavoidable entropy of two (texts) and four (images) positives is left; told apart,
    # nothing changes in this symmetric case but the share of right answers.
    images_of_two, images_of_one = math.log(4), math.log(2)
    floor = 0.5 * (2 / 3 * math.log(2) + (2 * images_of_two + images_of_one) / 3)
    assert float(as_one["loss"]) == pytest.approx(floor, abs=1e-3)
    assert float(as_one["rgb_match"]) == 1.0
    assert float(as_two["rgb_match"]) == pytest.approx(2 / 3)


def test_identity_of_captions_changes_the_gradient_of_the_sigmoid_only():
    """Softmax adds up over equal texts by itself: the loss gets honest, its gradient was right."""
    rgb, x, text, _ = batch(3)
    text = text[[0, 0, 1]]
    rgb.requires_grad_(True)

    def gradient(contrast, captions):
        loss = ContrastiveLoss(ContrastiveConfig(contrast=contrast), scale=10.0)
        terms = loss(rgb, x, text, torch.tensor(captions))
        return torch.autograd.grad(terms["loss"], rgb)[0]

    softmax, sigmoid = Contrast.SOFTMAX, Contrast.SIGMOID
    torch.testing.assert_close(
        gradient(softmax, [5, 5, 7]), gradient(softmax, [5, 6, 7]), atol=1e-6, rtol=1e-4
    )
    assert (gradient(sigmoid, [5, 5, 7]) - gradient(sigmoid, [5, 6, 7])).abs().max() > 1e-2


def test_near_texts_are_positives_in_part():
    texts = F.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]), dim=-1)
    captions = torch.arange(3)
    exact = ContrastiveLoss(ContrastiveConfig(), 10.0).affinity(texts, captions)
    assert torch.equal(exact, torch.eye(3))
    soft = ContrastiveLoss(ContrastiveConfig(near_cosine=0.95), 10.0).affinity(texts, captions)
    assert soft[0, 1] == pytest.approx(math.exp((float(texts[0] @ texts[1]) - 1) / 0.02), rel=1e-4)
    assert 0 < float(soft[0, 1]) < 1
    assert soft[0, 2] == 0
    torch.testing.assert_close(soft.diagonal(), torch.ones(3))


def test_sigmoid_knows_captions_too():
    text = F.normalize(torch.randn(2, 32), dim=-1)
    text = torch.stack([text[0], text[0], text[1]])
    loss = ContrastiveLoss(ContrastiveConfig(contrast=Contrast.SIGMOID), scale=40.0, bias=-20.0)
    good = loss(text, text, text, torch.tensor([1, 1, 2]))["loss"]
    bad = loss(text, text, text, torch.tensor([1, 3, 2]))["loss"]
    assert float(good) < 0.1 < float(bad)


def test_config_overrides_the_checkpoints_scale():
    assert ContrastiveLoss(ContrastiveConfig(), 14.3).scale == 14.3
    assert ContrastiveLoss(ContrastiveConfig(scale=50.0), 14.3).scale == 50.0


CONFIGS = (
    ContrastiveConfig(),
    ContrastiveConfig(near_cosine=0.1, near_temperature=0.5),
    ContrastiveConfig(contrast=Contrast.SIGMOID),
)


def gradients(config, rows, is_parallel):
    """Gradient of a linear map, as DDP makes it: the mean over ranks."""
    rgb, x, text, caption = (values[rows] for values in batch(8))
    caption = caption // 2002  # neighbours share a caption, across ranks too
    weight = torch.eye(8).requires_grad_(True)
    loss = ContrastiveLoss(config, 10.0)(rgb @ weight, x @ weight, text, caption)["loss"]
    loss.backward()
    if is_parallel:
        torch.distributed.all_reduce(weight.grad)
        weight.grad /= torch.distributed.get_world_size()
    return loss.detach(), weight.grad


def _rank(rank, folder):
    store = (Path(folder) / "store").as_uri()
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    found = [gradients(config, slice(rank, None, 2), True) for config in CONFIGS]
    torch.save(found, Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_have_the_gradient_of_one_with_the_whole_batch(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    commands = [[sys.executable, __file__, str(rank), str(tmp_path)] for rank in (0, 1)]
    workers = [subprocess.Popen(command, env=environment, cwd=ROOT) for command in commands]
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    for number, config in enumerate(CONFIGS):
        loss, gradient = gradients(config, slice(None), False)
        for other_loss, other in (found[0][number], found[1][number]):
            torch.testing.assert_close(other_loss, loss)
            torch.testing.assert_close(other, gradient, atol=1e-6, rtol=1e-4)


if __name__ == "__main__":
    _rank(int(sys.argv[1]), sys.argv[2])
