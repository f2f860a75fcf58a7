"""The LoRA pool while it is trained: peft adapters on the plain tower, one per modality.

Inference needs no peft: what is learned here goes into a `ModalityAwareClip`, or into files
of adapters, and the same embeddings come out (section III-B of the paper; docs/paper.md).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from typing import cast

import torch
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from segrgbx_core.base.errors import ConfigError
from segrgbx_core.base.modality import MODALITIES, Modality
from segrgbx_core.model.clip_vit import ClipVit
from segrgbx_core.model.lora import TARGETS, adapter_tensors, set_adapter
from segrgbx_core.model.ma_clip import ModalityAwareClip, build_tower, prepare_images


class TrainingPool(nn.Module):
    """A frozen image tower whose adapters learn; one modality at a time.

    Attributes:
        tower: timm's tower with peft layers.
        modalities: those that have an adapter here.
        active: whose adapter works and learns now.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        ma_clip: ModalityAwareClip,
        modalities: Iterable[Modality] = MODALITIES,
        dropout: float = 0.0,
    ) -> None:
        """Starts from the frozen base and the adapters of `ma_clip`, which stays untouched.

        Args:
            ma_clip: without a merged adapter.
            modalities: which adapters to train.
            dropout: of the adapters' input, while training.

        Raises:
            ConfigError: when `ma_clip` has no pool, or no modality is given.
        """
        super().__init__()
        self.config = ma_clip.config
        self.modalities = tuple(modalities)
        if not self.config.lora_rank or not self.modalities:
            raise ConfigError("LoRA pool: needs lora_rank above 0 and at least one modality")
        assert ma_clip.merged is None, "unmerge before training"
        self.tower = build_tower(self.config).requires_grad_(False)
        base = {k: v for k, v in ma_clip.tower.state_dict().items() if ".lora_" not in k}
        self.tower.load_state_dict(base)
        for modality in self.modalities:
            self._inject(modality, dropout)
            self._load(modality, adapter_tensors(ma_clip.tower, modality))
        self.register_buffer("mean", ma_clip.mean.clone(), persistent=False)
        self.register_buffer("std", ma_clip.std.clone(), persistent=False)
        self.active = self.modalities[0]
        self.use(self.active)

    def forward(self, images: Tensor, modality: Modality) -> Tensor:
        """Embeds images (B, 3, H, W) in [0, 1] with one adapter: (B, E), not normalised.

        For a batch of pairs, give RGB and X images one after the other.
        """
        if modality is not self.active:
            self.use(modality)
        return self.tower(prepare_images(images, self.config.image_size, self.mean, self.std))

    def use(self, modality: Modality) -> None:
        """Makes one adapter the one that works and gets gradients.

        Raises:
            ConfigError: when the pool has no adapter for it.
        """
        if modality not in self.modalities:
            known = ", ".join(map(str, self.modalities))
            raise ConfigError(f"LoRA pool: has adapters for {known}, none for {modality}")
        for layer in self._layers():
            layer.set_adapter(modality.value)
        self.active = modality

    def adapter_parameters(self, modality: Modality | None = None) -> list[nn.Parameter]:
        """Parameters to optimise: of one modality, or of the whole pool.

        Chosen by name, because `use` switches `requires_grad` of the others off.
        """
        names = [modality] if modality else list(self.modalities)
        endings = tuple(f".{item.value}.weight" for item in names)
        return [
            parameter
            for name, parameter in self.tower.named_parameters()
            if ".lora_" in name and name.endswith(endings)
        ]

    def adapter_tensors(self, modality: Modality) -> dict[str, Tensor]:
        """One adapter by peft's short names, as `segrgbx_core.model.lora.set_adapter` takes it."""
        return dict(get_peft_model_state_dict(self.tower, adapter_name=modality.value))

    def write_to(self, ma_clip: ModalityAwareClip) -> None:
        """Puts every adapter of this pool into a `ModalityAwareClip` of the same tower."""
        for modality in self.modalities:
            set_adapter(ma_clip.tower, modality, self.adapter_tensors(modality))

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trades time for memory in the tower's blocks."""
        cast("ClipVit", self.tower).set_grad_checkpointing(enable)  # timm's towers have it, too

    def _inject(self, modality: Modality, dropout: float) -> None:
        config = LoraConfig(
            r=self.config.lora_rank,
            lora_alpha=self.config.lora_alpha,
            target_modules=f"(?:{TARGETS})",
            lora_dropout=dropout,
        )
        with warnings.catch_warnings():  # several adapters in one tower are what is wanted
            warnings.filterwarnings("ignore", message="Already found a `peft_config`")
            inject_adapter_in_model(config, self.tower, adapter_name=modality.value)

    @torch.no_grad()
    def _load(self, modality: Modality, tensors: dict[str, Tensor]) -> None:
        own = dict(self.tower.named_parameters())
        for name, tensor in tensors.items():
            own[name.removesuffix(".weight") + f".{modality.value}.weight"].copy_(tensor)

    def _layers(self) -> Iterator[LoraLayer]:
        return (layer for layer in self.tower.modules() if isinstance(layer, LoraLayer))
