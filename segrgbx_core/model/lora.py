"""The LoRA pool: one low-rank adapter per X modality on the linear layers of a frozen image tower.

Legend: B images, N tokens, R rank of one adapter, M modalities, P = M * R.

Three forms give the same embeddings. Training uses peft, one adapter at a time
(`training.stage1.lora`).
At run time the adapters of all modalities lie side by side as one adapter of rank P, and a mask
keeps, for every image of a batch, the R ranks of its own modality; or one adapter is added to the
weights (`merge`), which costs nothing per frame but serves that modality only.

Adapters of modalities beyond the paper's five are products of their own: a wider pool would be
summed in another order and change the last bits of the five's answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segrgbx_core.base.errors import CheckpointError
from segrgbx_core.base.modality import MODALITIES, Modality
from segrgbx_core.model.tensor_files import check_weights

TARGETS = (
    r"blocks\.\d+\.(attn\.(qkv|proj)|mlp\.fc[12])"
    r"|stages\.\d+\.blocks\.\d+\.token_mixer\.(qkv|proj)"
)
"""Layers that carry LoRA, by their whole name: not `patch_embed.proj`, not `attn_pool.*`."""


class Selection:
    """Which ranks the images of the batch in flight use; shared by all layers of one tower.

    Attributes:
        mask: (B, 1, P), alpha / rank where an image uses a rank, else 0; None leaves the pool out.
        added: the same for each added adapter, (B, 1, 1).
        modalities: whose adapters the layers hold, in the order of their slots.
    """

    def __init__(self) -> None:
        self.mask: Tensor | None = None
        self.added: tuple[Tensor, ...] = ()
        self.modalities: tuple[Modality, ...] = MODALITIES

    def select(self, modality: Tensor, rank: int, alpha: float, dtype: torch.dtype) -> None:
        """Takes up the adapter of each image, `modality` int64 (B,); -1 selects none."""
        scale = alpha / rank
        self.mask = selection_mask(modality, rank, alpha).to(dtype)
        self.added = tuple(
            ((modality == slot).to(dtype) * scale)[:, None, None]
            for slot in range(len(MODALITIES), len(self.modalities))
        )

    def clear(self) -> None:
        """Leaves the pool out."""
        self.mask, self.added = None, ()


class LoraLinear(nn.Linear):
    """A linear layer with the pool's adapters beside it; its own parameters keep their names.

    Attributes:
        lora_down: (P, in), rows of adapter m at m * R.
        lora_up: (out, P), zero until an adapter is loaded, so that the layer equals its base.
        lora_added_down: (R, in) of each added adapter.
        lora_added_up: (out, R) likewise.
    """

    def __init__(self, base: nn.Linear, rank: int, selection: Selection) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias = base.weight, base.bias
        ranks = rank * len(MODALITIES)
        self.rank, self.selection = rank, selection
        bound = base.in_features**-0.5
        down = base.weight.new_empty(ranks, base.in_features).uniform_(-bound, bound)
        self.lora_down = nn.Parameter(down)
        self.lora_up = nn.Parameter(base.weight.new_zeros(base.out_features, ranks))
        self.lora_added_down, self.lora_added_up = nn.ParameterList(), nn.ParameterList()

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, in) to (B, N, out)."""
        output = F.linear(tokens, self.weight, self.bias)
        mask = self.selection.mask
        if mask is None:
            return output
        output = output + F.linear(F.linear(tokens, self.lora_down) * mask, self.lora_up)
        added = zip(self.selection.added, self.lora_added_down, self.lora_added_up, strict=True)
        for factor, down, up in added:
            output = output + F.linear(F.linear(tokens, down) * factor, up)
        return output

    def delta(self, modality: Modality, alpha: float) -> Tensor:
        """What the modality's adapter adds to the weight, float32 (out, in)."""
        down, up = self.adapter(modality)
        return (alpha / self.rank) * (up.float() @ down.float())

    def adapter(self, modality: Modality) -> tuple[Tensor, Tensor]:
        """The modality's own part of the pool: down (R, in) and up (out, R)."""
        slot = self.selection.modalities.index(modality)
        if slot >= len(MODALITIES):
            slot -= len(MODALITIES)
            return self.lora_added_down[slot], self.lora_added_up[slot]
        ranks = slice(slot * self.rank, (slot + 1) * self.rank)
        return self.lora_down[ranks], self.lora_up[:, ranks]

    def add_adapter(self) -> None:
        """One more adapter, zero-initialised as the others."""
        bound = self.in_features**-0.5
        down = self.weight.new_empty(self.rank, self.in_features).uniform_(-bound, bound)
        self.lora_added_down.append(nn.Parameter(down, requires_grad=False))
        up = self.weight.new_zeros(self.out_features, self.rank)
        self.lora_added_up.append(nn.Parameter(up, requires_grad=False))


def add_pool(tower: nn.Module, rank: int) -> Selection:
    """Replaces the tower's target layers by `LoraLinear`; zero-initialised, so outputs stay equal.

    Raises:
        CheckpointError: when the tower has none of the layers that can carry LoRA.
    """
    selection = Selection()
    targets = [name for name, layer in tower.named_modules() if is_target(name, layer)]
    if not targets:
        raise CheckpointError(
            f"LoRA pool: {type(tower).__name__} has no layer that matches {TARGETS}"
        )
    for name in targets:
        parent, _, leaf = name.rpartition(".")
        base = tower.get_submodule(name)
        assert isinstance(base, nn.Linear)
        setattr(tower.get_submodule(parent), leaf, LoraLinear(base, rank, selection))
    return selection


def is_target(name: str, layer: nn.Module) -> bool:
    """True for a layer that carries LoRA, `name` counted from the tower's root."""
    return isinstance(layer, nn.Linear) and re.fullmatch(TARGETS, name) is not None


def pool_layers(tower: nn.Module) -> Iterator[tuple[str, LoraLinear]]:
    """Every layer of the pool with its name."""
    return (
        (name, layer) for name, layer in tower.named_modules() if isinstance(layer, LoraLinear)
    )


def selection_mask(modality: Tensor, rank: int, alpha: float) -> Tensor:
    """Mask over the pool's ranks, float32 (B, 1, P), for `modality` int64 (B,).

    An index outside the pool, such as -1, selects no adapter: the frozen base.
    """
    owner = torch.arange(len(MODALITIES), device=modality.device).repeat_interleave(rank)  # (P,)
    return (modality[:, None, None] == owner).float() * (alpha / rank)  # (B, 1, P)


def adapter_tensors(tower: nn.Module, modality: Modality) -> dict[str, Tensor]:
    """One adapter by peft's short names: `<layer>.lora_A.weight` and `<layer>.lora_B.weight`."""
    tensors = {}
    for name, layer in pool_layers(tower):
        down, up = layer.adapter(modality)
        tensors[f"{name}.lora_A.weight"] = down.detach()
        tensors[f"{name}.lora_B.weight"] = up.detach()
    return tensors


@torch.no_grad()
def set_adapter(
    tower: nn.Module, modality: Modality, tensors: Mapping[str, Tensor], where: str = "adapter"
) -> None:
    """Puts one adapter into the pool; names as in `adapter_tensors`, strictly.

    Raises:
        CheckpointError: when a tensor is missing, unexpected or of another shape.
    """
    check_weights(adapter_tensors(tower, modality), tensors, f"{where} ({modality})")
    for name, layer in pool_layers(tower):
        down, up = layer.adapter(modality)
        down.copy_(tensors[f"{name}.lora_A.weight"])
        up.copy_(tensors[f"{name}.lora_B.weight"])
