"""What stage 1 minimises: Eq. 1 on the embeddings of the adapters that learn."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from segrgbx_core.base.modality import MODALITIES
from training.engine.loop import Batch
from training.stage1.contrastive import ContrastiveLoss
from training.stage1.lora import TrainingPool


class ContrastiveObjective(nn.Module):
    """The learning pool with its loss; its state is the adapters, not the frozen tower.

    Args:
        pool: adapters on the frozen tower.
        loss: Eq. 1.

    Attributes:
        best: float32 (modalities,), best score of each modality so far, part of the state.
    """

    best: Tensor

    def __init__(self, pool: TrainingPool, loss: ContrastiveLoss) -> None:
        super().__init__()
        self.pool, self.loss = pool, loss
        self.register_buffer("best", torch.full((len(MODALITIES),), -1.0))
        self._learn_all()
        self.register_state_dict_post_hook(_drop_frozen)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_post_hook(_expect_no_frozen)  # type: ignore[no-untyped-call]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Loss terms of one batch of `PairDataset` items, of one modality or several."""
        modality = batch["modality"]
        images = torch.stack([batch["rgb"], batch["x"]], dim=1)  # (B, 2, 3, S, S)
        order, parts = [], []
        for index in sorted(set(modality.tolist())):
            chosen = (modality == index).nonzero().squeeze(1)
            order.append(chosen)
            parts.append(self.pool(images[chosen].flatten(0, 1), MODALITIES[index]))
            self._learn_all()
        embeddings = torch.cat(parts)
        pairs = embeddings.reshape(
            -1, 2, embeddings.shape[-1]
        )  # (B, 2, E), modality after modality
        rgb_embedding, x_embedding = pairs[torch.cat(order).argsort()].unbind(dim=1)
        terms: dict[str, Tensor] = self.loss(
            rgb_embedding, x_embedding, batch["text"], batch["caption"]
        )
        return terms

    def _learn_all(self) -> None:
        # peft lets only the adapter in use learn; the optimizer must know all of them, and a
        # mixed batch reaches several. An adapter without pairs gets no gradient and stays put.
        for parameter in self.pool.adapter_parameters():
            parameter.requires_grad_(True)


def _drop_frozen(
    module: nn.Module, state: dict[str, Any], prefix: str, _metadata: dict[str, Any]
) -> None:
    trained = {name for name, value in module.named_parameters() if value.requires_grad}
    for name in [name for name in state if name.startswith(f"{prefix}pool.")]:
        if name.removeprefix(prefix) not in trained:
            del state[name]


def _expect_no_frozen(_module: nn.Module, keys: Any) -> None:
    keys.missing_keys[:] = [name for name in keys.missing_keys if ".lora_" in name]
