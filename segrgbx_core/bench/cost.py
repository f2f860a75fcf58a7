"""What a forward pass costs: parameters and multiply-adds per part, without computing anything.

The networks are built on torch's meta device, so counting needs neither memory nor weights.
Counted are convolutions and matrix products; norms, activations, resizing, sums are in no figure.
One multiply-add counts as one, as in the paper's "GFLOPs".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from segrgbx_core.model import AnyModelConfig, ModelConfig, build_model
from segrgbx_core.model.ma_clip import MaClipConfig, ModalityAwareClip
from segrgbx_core.model.refinement import Structure

PAPER_TABLE_IV: dict[Structure, tuple[float, float]] = {
    Structure.A: (176.70, 111.15),
    Structure.B: (143.63, 99.74),
    Structure.C: (160.96, 105.65),
    Structure.D: (159.38, 105.24),
    Structure.E: (230.61, 113.03),
    Structure.F: (203.31, 106.58),
    Structure.G: (212.53, 109.79),
    Structure.H: (159.40, 108.31),
    Structure.I: (156.32, 107.01),
}
"""The paper's parameters in millions and "GFLOPs" of each DSRM structure, at 512 x 512."""

_PARTS = {
    "backbone": "backbone, two streams",
    "x_backbone": "backbone of X",
    "prompts": "modality-aligned embedding",
    "rectify": "FRM",
    "fuse": "FFM",
    "refine": "DSRM",
    "head": "head",
}
_CLIP, _POOL, _OTHER = "MA-CLIP image tower, two images", "LoRA pool", "other"


@dataclass(frozen=True)
class Cost:
    """Parameters and multiply-adds of a model or of a part of it.

    Attributes:
        parameters_m: parameters in millions.
        gmacs: multiply-adds in 1e9, everything that is computed.
        gmacs_paper_convention: the same without what the paper's counting tool does not see: all
            attention layers of MA-CLIP and the score products of the DSRM (docs/paper.md, budget).
    """

    parameters_m: float
    gmacs: float
    gmacs_paper_convention: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.parameters_m + other.parameters_m,
            self.gmacs + other.gmacs,
            self.gmacs_paper_convention + other.gmacs_paper_convention,
        )


def count_cost(
    model: AnyModelConfig,
    ma_clip: MaClipConfig,
    num_classes: int,
    size: tuple[int, int] = (512, 512),
    folded: bool = False,
) -> dict[str, Cost]:
    """Cost of one RGB-X pair, by part in the order of computation.

    MA-CLIP counts as it is deployed: image tower only, LoRA merged, both images of the pair.

    Args:
        model: architecture of SegRGB-X or of a baseline.
        ma_clip: architecture of MA-CLIP; a network that has no use for it does not pay for it.
        num_classes: classes of the unified space.
        size: (height, width) of the model's input.
        folded: counts the head as inference folds it, not as it is trained.
    """
    clip = _clip_cost(ma_clip) if model.use_ma_clip else {}
    return {**clip, **_network_cost(model, num_classes, ma_clip.output_dim, size, folded)}


def total_cost(parts: Mapping[str, Cost]) -> Cost:
    """Sum over the parts."""
    return sum(parts.values(), start=Cost(0.0, 0.0, 0.0))


def count_structures(
    model: ModelConfig, ma_clip: MaClipConfig, num_classes: int, size: tuple[int, int] = (512, 512)
) -> dict[Structure, Cost]:
    """Total cost of each DSRM structure of Table IV."""
    clip = total_cost(_clip_cost(ma_clip) if model.use_ma_clip else {})
    costs = {}
    for structure in Structure:
        refinement = model.refinement.model_copy(update={"structure": structure})
        changed = model.model_copy(update={"refinement": refinement})
        parts = _network_cost(changed, num_classes, ma_clip.output_dim, size, folded=False)
        costs[structure] = clip + total_cost(parts)
    return costs


def _clip_cost(config: MaClipConfig) -> dict[str, Cost]:
    with torch.device("meta"), torch.no_grad():
        clip = ModalityAwareClip(config)
        images = torch.empty(2, 3, config.image_size, config.image_size)
        macs = _count(clip.tower, lambda: clip.tower(images))
    total = macs.total(lambda *_: True)
    unseen = macs.total(lambda path, _: ".attn." in f"{path}.")
    pool = sum(p.numel() for name, p in clip.named_parameters() if ".lora_" in name)
    return {
        _CLIP: Cost((_size(clip) - pool) / 1e6, total / 1e9, (total - unseen) / 1e9),
        _POOL: Cost(pool / 1e6, 0.0, 0.0),
    }


def _network_cost(
    config: AnyModelConfig, num_classes: int, embed_dim: int, size: tuple[int, int], folded: bool
) -> dict[str, Cost]:
    with torch.device("meta"), torch.no_grad():
        network = build_model(config, num_classes, embed_dim).eval()
        if folded:
            network.fold()
        images, embedding = torch.empty(1, 3, *size), torch.empty(1, embed_dim)
        modality = torch.zeros(1, dtype=torch.int64)
        macs = _count(network, lambda: network(images, images, embedding, embedding, modality))
    sizes = {name: _size(part) for name, part in network.named_children() if name in _PARTS}
    is_rgb_alone = "x_backbone" in sizes or config.architecture == "segformer"
    titles = {**_PARTS, **({"backbone": "backbone of RGB"} if is_rgb_alone else {})}
    costs = {
        title: _part_cost(macs, part, sizes[part])
        for part, title in titles.items()
        if part in sizes
    }
    known = sum(sizes.values())
    rest = macs.total(lambda path, _: path.split(".")[0] not in _PARTS)
    if known != _size(network) or rest:
        costs[_OTHER] = Cost((_size(network) - known) / 1e6, rest / 1e9, rest / 1e9)
    return costs


def _part_cost(macs: _Macs, part: str, parameters: int) -> Cost:
    own = macs.total(lambda path, _: path.split(".")[0] == part)
    scores = macs.total(lambda path, fused: path.split(".")[0] == part == "refine" and fused)
    return Cost(parameters / 1e6, own / 1e9, (own - scores) / 1e9)


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


class _Macs(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Multiply-adds by the path of the module that asked for them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.paths: list[str] = [""]
        self.in_attention = False
        self.counts: Counter[tuple[str, bool]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            flops = formula(*args, **(kwargs or {}), out_val=out)
            self.counts[self.paths[-1], self.in_attention] += flops // 2
        return out

    def total(self, wanted: Callable[[str, bool], bool]) -> int:
        """Sum where `wanted(path, is a score product of fused attention)`."""
        return sum(count for key, count in self.counts.items() if wanted(*key))


class _AttentionMark(TorchFunctionMode):
    """Tells `_Macs` which products belong to torch's fused attention."""

    def __init__(self, macs: _Macs) -> None:
        super().__init__()
        self._macs = macs

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        fused = func is nn.functional.scaled_dot_product_attention
        self._macs.in_attention = fused or self._macs.in_attention
        try:
            return func(*args, **(kwargs or {}))
        finally:
            if fused:
                self._macs.in_attention = False


def _count(module: nn.Module, run: Callable[[], Tensor]) -> _Macs:
    macs = _Macs()
    with _paths(module, macs), _AttentionMark(macs), macs:
        run()
    return macs


@contextmanager
def _paths(root: nn.Module, macs: _Macs) -> Iterator[None]:
    handles = []
    for name, module in root.named_modules():
        if not name:
            continue
        handles.append(
            module.register_forward_pre_hook(lambda *_, path=name: macs.paths.append(path))
        )
        handles.append(module.register_forward_hook(lambda *_: _pop(macs.paths)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _pop(paths: list[str]) -> None:
    paths.pop()
