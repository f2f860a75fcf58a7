"""Learning rate step by step, averaging memory, and which values decay."""

import itertools

import pytest
import torch
from torch import nn

from segrgbx_core.base.errors import ConfigError
from segrgbx_core.model import PRESETS, build_model
from training.engine.schedule import (
    Decay,
    OptimizerConfig,
    build_optimizer,
    cosine_factor,
    ema_factor,
    learning_rate,
    parameter_groups,
    poly_factor,
    set_learning_rate,
    warm_up_factor,
)


@pytest.mark.parametrize(
    ("progress", "power", "expected"),
    [(0, 0.9, 1.0), (0.5, 0.9, 0.5**0.9), (1, 0.9, 0.0), (0.25, 1, 0.75), (1.2, 0.9, 0.0)],
)
def test_poly(progress, power, expected):
    assert poly_factor(progress, power) == pytest.approx(expected)


def test_cosine_and_warm_up():
    assert [cosine_factor(p) for p in (0, 0.5, 1)] == pytest.approx([1, 0.5, 0])
    assert [warm_up_factor(s, 4) for s in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert warm_up_factor(0, 0) == 1


def test_rate_rises_then_falls_without_a_jump_to_nearly_zero():
    config = OptimizerConfig(learning_rate=2.0, warm_up=0.1)
    rates = [learning_rate(config, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == rates[9] == rates[10] == 2.0
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    assert rates[-1] == pytest.approx(2.0 * (1 / 90) ** 0.9)


def test_decay_can_be_cosine():
    config = OptimizerConfig(learning_rate=1.0, warm_up=0.0, decay=Decay.COSINE)
    assert learning_rate(config, 50, 100) == pytest.approx(0.5)


def test_paper_defaults():
    config = OptimizerConfig()
    assert (config.learning_rate, config.decay, config.power) == (1e-4, Decay.POLY, 0.9)


def test_average_forgets_the_start():
    assert ema_factor(0.99, 0) == pytest.approx(0.1)
    assert ema_factor(0.99, 10_000) == 0.99


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.LayerNorm(4)
        self.universal = nn.Parameter(torch.zeros(5, 4))
        self.scale = nn.Parameter(torch.zeros(()))
        self.frozen = nn.Linear(4, 4).requires_grad_(False)


def test_only_matrices_and_kernels_decay():
    model = Small()
    decayed, kept = parameter_groups(model, 0.05)
    assert decayed["weight_decay"] == 0.05
    assert kept["weight_decay"] == 0.0
    assert [p.shape for p in decayed["params"]] == [model.conv.weight.shape]
    assert len(kept["params"]) == 5
    optimizer = build_optimizer(model, OptimizerConfig(beta2=0.95))
    assert isinstance(optimizer, torch.optim.AdamW)
    set_learning_rate(optimizer, 0.125)
    assert {group["lr"] for group in optimizer.param_groups} == {0.125}
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.95)


def test_slow_parts_have_a_share_of_the_rate():
    model = Small()
    config = OptimizerConfig(slow_parts=("conv",), slow_rate=0.2)
    optimizer = build_optimizer(model, config)
    set_learning_rate(optimizer, 0.5)
    rates = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    trained = {n: id(p) for n, p in model.named_parameters() if p.requires_grad}
    assert rates.keys() == set(trained.values())
    for name, place in trained.items():
        assert rates[place] == (0.1 if "conv" in name else 0.5)
    with pytest.raises(ConfigError, match="'convs' in its name"):
        build_optimizer(model, OptimizerConfig(slow_parts=("conv", "convs")))


def test_prompts_of_the_model_do_not_decay():
    model = build_model(PRESETS["tiny"], 5, 16)
    decayed, kept = ({id(p) for p in g["params"]} for g in parameter_groups(model, 0.05))
    names = {name: id(parameter) for name, parameter in model.named_parameters()}
    prompts = {"prompts.0.aligned", "prompts.3.aligned", "refine.blocks.0.universal.universal"}
    assert {names[name] for name in prompts} <= kept
    matrices = {id(p) for p in model.parameters() if p.ndim > 1}
    all_prompts = [n for n in names if n.endswith((".aligned", ".universal"))]
    assert matrices - {names[name] for name in all_prompts} == decayed
    assert "prompts.0.control.1.weight" not in all_prompts


def test_the_fused_optimizer_takes_the_same_steps():
    weights = []
    for fused in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5))
        optimizer = build_optimizer(model, OptimizerConfig(learning_rate=0.1, fused=fused))
        for _ in range(3):
            model(torch.randn(4, 6)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        assert bool(optimizer.param_groups[0]["fused"]) is fused
        weights.append(torch.cat([value.flatten() for value in model.parameters()]))
    torch.testing.assert_close(*weights)
