"""Learning rate as a pure function of the step, and the optimizer it drives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import Enum
from typing import cast

import torch
from torch import nn

from segrgbx_core.base.config import Config, option
from segrgbx_core.base.errors import ConfigError

_PROMPTS = ("aligned", "universal")
"""Last names of the prompts of `model.prompts.StagePrompts` and of the DSRM's U."""


class Decay(str, Enum):
    """Shape of the learning rate after the warm-up."""

    POLY = "poly"
    """(1 - progress) ** power, the paper's."""
    COSINE = "cosine"
    """Half a cosine wave."""


class OptimizerConfig(Config):
    """AdamW and its learning rate. The paper states the rate and the decay, not the optimizer."""

    learning_rate: float = option(1e-4, doc="highest learning rate", low=0)
    weight_decay: float = option(
        0.01, doc="decay of matrices and kernels; 1-D values and prompts have none", low=0
    )
    beta2: float = option(0.999, doc="AdamW's memory of squared gradients", low=0, high=1)
    decay: Decay = option(Decay.POLY, doc="how the rate falls after the warm-up: poly or cosine")
    power: float = option(0.9, doc="exponent of the poly decay", low=0)
    warm_up: float = option(0.05, doc="share of the run in which the rate rises", low=0, high=1)
    clip_norm: float = option(0.0, doc="largest gradient norm; 0 means no limit", low=0)
    slow_parts: tuple[str, ...] = option(
        (),
        doc="pieces of names of weights that learn slowly, such as .convs. of a pretrained lite0",
    )
    slow_rate: float = option(
        1.0, doc="their learning rate relative to that of all other weights", low=0, high=1
    )
    fused: bool = option(
        False, doc="one kernel for all weights of a step; faster, and other last bits"
    )
    ema_decay: float = option(
        0.0,
        doc="memory of the averaged weights that are scored and saved; 0 means none",
        low=0,
        high=1,
    )


def warm_up_factor(step: int, warm_up_steps: int) -> float:
    """Linear rise to 1: 1/n at step 0, 1 from step n - 1 on."""
    return min(1.0, (step + 1) / warm_up_steps) if warm_up_steps > 0 else 1.0


def poly_factor(progress: float, power: float = 0.9) -> float:
    """Fall from 1 at progress 0 to 0 at progress 1."""
    return (1.0 - min(max(progress, 0.0), 1.0)) ** power


def cosine_factor(progress: float) -> float:
    """Half a cosine wave from 1 at progress 0 to 0 at progress 1."""
    return 0.5 + 0.5 * math.cos(math.pi * min(max(progress, 0.0), 1.0))


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """The rate of one step.

    Args:
        config: shape and height.
        step: 0 for the first step.
        steps: length of the run; the decay is counted from the end of the warm-up, without a jump.
    """
    warm_up_steps = round(config.warm_up * steps)
    progress = max(0, step - warm_up_steps) / max(1, steps - warm_up_steps)
    fall = (
        cosine_factor(progress)
        if config.decay is Decay.COSINE
        else poly_factor(progress, config.power)
    )
    return config.learning_rate * warm_up_factor(step, warm_up_steps) * fall


def ema_factor(decay: float, step: int) -> float:
    """Memory of the averaged weights at a step: short at first, so that the start is forgotten."""
    return min(decay, (1.0 + step) / (10.0 + step))


def parameter_groups(
    model: nn.Module, weight_decay: float, slow_parts: Sequence[str] = (), slow_rate: float = 1.0
) -> list[dict[str, object]]:
    """Trainable parameters in groups: matrices and kernels decay, 1-D and 0-D ones do not.

    Learned prompts are matrices by shape but inputs by meaning, like position codes: no decay.
    Weights with one of `slow_parts` in their names make two more groups, whose `factor` of the
    learning rate is `slow_rate`.

    Raises:
        ConfigError: for a piece of a name that no trainable weight has.
    """
    groups: list[dict[str, object]] = [
        {"params": [], "weight_decay": decay, "factor": factor}
        for factor in ((1.0, slow_rate) if slow_parts else (1.0,))
        for decay in (weight_decay, 0.0)
    ]
    found = set()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        slow = [part for part in slow_parts if part in name]
        found.update(slow)
        is_prompt = name.rsplit(".", maxsplit=1)[-1] in _PROMPTS
        place = 2 * bool(slow) + (parameter.ndim <= 1 or is_prompt)
        cast("list[nn.Parameter]", groups[place]["params"]).append(parameter)
    if lacking := sorted(set(slow_parts) - found):
        raise ConfigError(
            f"optimizer.slow_parts: no trained weight has '{lacking[0]}' in its name"
        )
    return groups


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over `parameter_groups`."""
    return torch.optim.AdamW(
        parameter_groups(model, config.weight_decay, config.slow_parts, config.slow_rate),
        lr=config.learning_rate,
        betas=(0.9, config.beta2),
        fused=config.fused or None,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Gives every parameter group its `factor` of a rate, all of it where there is none."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("factor", 1.0)
