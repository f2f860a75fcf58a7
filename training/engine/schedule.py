"""Learning rate as a pure function of the step, and the optimizer it drives."""

from __future__ import annotations

import math
from enum import Enum

import torch
from torch import nn

from segrgbx_core.base.config import Config, option

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


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Trainable parameters in two groups: matrices and kernels decay, 1-D and 0-D ones do not.

    Learned prompts are matrices by shape but inputs by meaning, like position codes: no decay.
    """
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_prompt = name.rsplit(".", maxsplit=1)[-1] in _PROMPTS
        (kept if parameter.ndim <= 1 or is_prompt else decayed).append(parameter)
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over `parameter_groups`."""
    return torch.optim.AdamW(
        parameter_groups(model, config.weight_decay),
        lr=config.learning_rate,
        betas=(0.9, config.beta2),
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Gives every parameter group the same rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate
