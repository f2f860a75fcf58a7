"""Compares the answers of an exported form with those of its network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from segrgbx_core.base.errors import SegrgbxError
from segrgbx_core.base.modality import Modality
from segrgbx_core.export.graphs import labels_of
from segrgbx_core.model import Scene
from segrgbx_core.runtime.batch import Batch, InputConfig, place
from segrgbx_core.runtime.engines import Engine
from segrgbx_core.sensors import EncodingConfig, slot_of

MIN_AGREEMENT = 0.995
"""Share of pixels whose label must be the same."""
_MAX_SCENE_ERROR = 0.02
"""Largest difference of a scene's tensor over its standard deviation."""


class ParityError(SegrgbxError):
    """An exported form answers unlike the network it was made from."""


@dataclass(frozen=True)
class Parity:
    """How one case came out.

    Attributes:
        case: batch, size and modalities, for messages.
        agreement: share of pixels with the same label.
        logit_error: largest difference of a logit.
        scene_error: largest difference of a scene's tensor over its standard deviation.
    """

    case: str
    agreement: float
    logit_error: float
    scene_error: float


@dataclass(frozen=True, eq=False)
class Case:
    """Synthetic images of one batch."""

    name: str
    batch: Batch


def make_cases(
    size: tuple[int, int],
    modalities: Sequence[Modality],
    fixed_size: bool = False,
    count: int = 3,
    pad: bool = False,
    encoding: EncodingConfig | None = None,
) -> list[Case]:
    """Batches of different sizes and mixtures: the model's own size first.

    Args:
        size: (height, width) of the model's input.
        modalities: those that must work.
        fixed_size: True takes no other size.
        count: how many cases.
        pad: images get the border of `InputConfig.pad`.
        encoding: of the contract, which numbers added modalities.
    """
    height, width = size
    shapes = [(1, height, width), (2, max(64, height // 2) + 1, max(64, width // 2) + 33)]
    shapes += [(max(3, len(modalities) - 2), 64, 96)]  # up to the last that was added
    if fixed_size:
        shapes = [(batch, height, width) for batch, _, _ in shapes]
    return [
        _case(batch, InputConfig(height=rows, width=columns, pad=pad), modalities, seed, encoding)
        for seed, (batch, rows, columns) in enumerate(shapes[:count])
    ]


Labels: TypeAlias = Callable[[Batch, Scene], Tensor]
"""Labels (B, H, W) on the grid of the model's input, made in another way than from logits."""


@dataclass(frozen=True, eq=False)
class Answer:
    """What the reference says to a case."""

    case: Case
    scene: Scene
    logits: Tensor


@torch.inference_mode()
def answer(ours: Engine, case: Case) -> Answer:
    """The reference's answer, computed once for every exported form."""
    scene = ours.encode_scene(case.batch)
    return Answer(case, scene, ours.coarse_logits(case.batch, scene).float())


@torch.inference_mode()
def compare(expected: Answer, other: Engine, what: str, limit: float = MIN_AGREEMENT) -> Parity:
    """Runs another form of the network on a case, with the scene that it makes itself.

    Args:
        expected: the reference's answer.
        other: the exported form.
        what: the exported form in words, for messages.
        limit: least share of equal labels.

    Raises:
        ParityError: for a case below the limit, saying where they differ.
    """
    case = expected.case
    scene = other.encode_scene(case.batch)
    worst, error = scene_error(expected.scene, scene)
    if not error <= _MAX_SCENE_ERROR:
        raise ParityError(
            f"{what}: {worst} of the scene is off by {error:.3g} standard deviations "
            f"(at most {_MAX_SCENE_ERROR:g}) at {case.name}"
        )
    logits = other.coarse_logits(case.batch, scene).float()
    labels = labels_of(logits, case.batch.rgb_pixels.shape[1:3])[0]
    agreement = _agreement(expected, labels, what, limit)
    difference = (expected.logits - logits).abs().max().item()
    return Parity(case.name, agreement, difference, error)


@torch.inference_mode()
def compare_labels(
    expected: Answer, labels: Labels, what: str, limit: float = MIN_AGREEMENT
) -> Parity:
    """As `compare`, for a form that answers with labels only, given the reference's scene."""
    case = expected.case
    agreement = _agreement(expected, labels(case.batch, expected.scene), what, limit)
    return Parity(case.name, agreement, 0.0, 0.0)


def scene_error(expected: Scene, scene: Scene) -> tuple[str, float]:
    """The tensor that differs most, and its largest difference over its standard deviation."""
    pairs = {
        f"{kind} {index}": pair
        for kind, parts in (
            ("prompts of stage", zip(expected.prompt_kv, scene.prompt_kv, strict=True)),
            ("query of DSRM", zip(expected.queries, scene.queries, strict=True)),
        )
        for index, pair in enumerate(parts, 1)
    }
    errors = {name: _relative(*pair) for name, pair in pairs.items()}
    return max(errors.items(), key=lambda item: item[1], default=("nothing", 0.0))


def _agreement(expected: Answer, labels: Tensor, what: str, limit: float) -> float:
    case = expected.case
    same = labels_of(expected.logits, case.batch.rgb_pixels.shape[1:3])[0] == labels
    agreement = same.float().mean().item()
    if not agreement >= limit:
        raise ParityError(
            f"{what}: labels agree on {100 * agreement:.2f} % of pixels (at least "
            f"{100 * limit:g} %) at {case.name}; {_where(same)}"
        )
    return agreement


def _relative(expected: Tensor, given: Tensor) -> float:
    scale = expected.float().std().clamp(min=1e-6)
    return ((expected.float() - given.float()).abs().max() / scale).item()


def _where(same: Tensor) -> str:
    shares = same.float().mean(dim=(1, 2))  # (B,)
    sample = int(shares.argmin())
    rows, columns = torch.nonzero(~same[sample], as_tuple=True)
    return (
        f"worst in sample {sample} ({100 * shares[sample].item():.2f} %), rows "
        f"{int(rows.min())} to {int(rows.max())}, columns {int(columns.min())} to "
        f"{int(columns.max())}"
    )


def _case(
    count: int,
    config: InputConfig,
    modalities: Sequence[Modality],
    seed: int,
    encoding: EncodingConfig | None,
) -> Case:
    rng = np.random.default_rng(seed)
    mixture = [modalities[(seed + index) % len(modalities)] for index in range(count)]
    height, width = config.height, config.width
    placement = place(height, width, config)
    draw: Callable[[], Tensor] = lambda: _scenery(rng, count, *config.canvas)  # noqa: E731
    batch = Batch(
        rgb_pixels=(draw() * 255).to(torch.uint8),
        x_pixels=draw(),
        modality=torch.tensor([slot_of(modality, encoding) for modality in mixture]),
        placements=(placement,) * count,
        border=(config.canvas[0] - height, config.canvas[1] - width),
    )
    names = ", ".join(map(str, mixture))
    return Case(f"batch {count}, {width}x{height} ({names})", batch)


def _scenery(rng: np.random.Generator, count: int, height: int, width: int) -> Tensor:
    """Patches of plain colour with some noise, float32 (B, H, W, 3) in [0, 1]."""
    blocks = rng.random((count, 3, 6, 8)).astype(np.float32)
    plain = torch.nn.functional.interpolate(torch.from_numpy(blocks), (height, width))
    noise = torch.from_numpy(rng.normal(0, 0.05, plain.shape).astype(np.float32))
    return (plain + noise).clamp(0, 1).permute(0, 2, 3, 1).contiguous()
