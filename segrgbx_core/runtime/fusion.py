"""One answer from several X sensors beside one RGB camera: a product of experts.

Every pair (RGB, X_i) gives p(c | RGB, X_i), and each of them holds the evidence of the same RGB
image. Were the X independent given class and RGB, Bayes' rule would say

    p(c | RGB, X_1 .. X_n) ~ p(c | RGB) * prod_i [p(c | RGB, X_i) / p(c | RGB)]

They are not quite, so each member's evidence counts with a weight of its own. Exponents of a
product are factors on logits: the fused logits are a weighted sum (docs/decisions/0013).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from segrgbx_core.runtime.batch import Placement

RGB = "rgb"
"""Key of the weight of RGB alone, and part of no sensor's name."""


@dataclass(frozen=True, eq=False)
class ClassScores:
    """What fusing needs of one member's answer.

    Attributes:
        logits: calibrated, (C, h, w) on the model's coarse grid; C all classes of the checkpoint.
        placement: of RGB in the model's input, with the size of the answer.
    """

    logits: Tensor
    placement: Placement


@dataclass(frozen=True)
class FusionWeights:
    """Exponents of a product of experts.

    Attributes:
        members: one per member.
        rgb: of RGB alone; negative, since every member holds that evidence.
    """

    members: tuple[float, ...]
    rgb: float

    @property
    def needs_rgb(self) -> bool:
        """True where RGB alone has to be asked."""
        return self.rgb != 0


def fusion_key(names: Sequence[str]) -> str:
    """How a contract calls the weights of these sensors: their names in order, joined by `+`."""
    return "+".join(sorted(names))


def fusion_weights(
    names: Sequence[str], fitted: Mapping[str, Mapping[str, float]]
) -> FusionWeights:
    """Weights of the members that take part.

    One member is taken as it is. Several have the weights that were fitted for just these sensors;
    where none were, or two members have one kind of sensor, n members count as sqrt(n) independent
    ones.

    Args:
        names: the sensor of each member.
        fitted: the contract's `fusion`.
    """
    count = len(names)
    if count == 1:
        return FusionWeights((1.0,), 0.0)
    known = fitted.get(fusion_key(names))
    if known is not None:
        return FusionWeights(tuple(known[name] for name in names), known.get(RGB, 0.0))
    each = 1 / math.sqrt(count)
    return FusionWeights((each,) * count, 1 - count * each)


def fused_logits(
    members: Sequence[Tensor], weights: FusionWeights, rgb: Tensor | None = None
) -> Tensor:
    """Fused logits (C, h, w) from those of the members and of RGB alone, of the same shape."""
    parts = [one.float() * weight for one, weight in zip(members, weights.members, strict=True)]
    if rgb is not None:
        parts.append(rgb.float() * weights.rgb)
    return torch.stack(parts).sum(dim=0)
