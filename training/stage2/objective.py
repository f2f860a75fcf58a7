"""What stage 2 minimises: Eq. 8 on the logits of the model, with MA-CLIP frozen beside it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segrgbx_core.model import RgbxNetwork
from segrgbx_core.model.head import resize
from segrgbx_core.model.ma_clip import ModalityAwareClip
from segrgbx_core.model.network import padded
from segrgbx_core.runtime.batch import RGB_BORDER, with_border
from training.engine.loop import Batch
from training.stage2.losses import SegmentationLoss, sample_points


class SegmentationObjective(nn.Module):
    """The model with its loss; MA-CLIP stands beside it, neither trained nor part of the state.

    Args:
        model: what is trained.
        ma_clip: frozen; used for batches that bring no embeddings.
        loss: Eq. 8.
        channels_last: image layout.
        pad: images get the border of `InputConfig.pad`.
    """

    def __init__(
        self,
        model: RgbxNetwork,
        ma_clip: ModalityAwareClip,
        loss: SegmentationLoss,
        channels_last: bool,
        pad: bool = False,
    ) -> None:
        super().__init__()
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.model = model
        for weight in model.parameters():
            if weight.ndim == 4:
                weight.data = weight.data.contiguous(memory_format=self.layout)
        self.loss = loss
        self.pad = pad
        self._beside = (ma_clip,)

    @property
    def ma_clip(self) -> ModalityAwareClip:
        """The frozen tower."""
        return self._beside[0]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Loss terms of one batch of `JointDataset` items."""
        rgb = batch["rgb"].contiguous(memory_format=self.layout)
        x = batch["x"].contiguous(memory_format=self.layout)
        modality = batch["modality"]
        if "rgb_embedding" in batch:
            embeddings = batch["rgb_embedding"], batch["x_embedding"]
        elif self.model.needs_embeddings:
            embeddings = self.ma_clip.to(rgb.device)(rgb, x, modality)
        else:
            unused = rgb.new_zeros(len(rgb), self.model.embed_dim)
            embeddings = unused, unused
        padded_size = rgb.shape[2], rgb.shape[3]
        if self.pad:
            padded_size = padded(padded_size)
            rgb = with_border(rgb, RGB_BORDER).contiguous(memory_format=self.layout)
            x = with_border(x, (0, 0, 0)).contiguous(memory_format=self.layout)
        scene = self.model.encode_scene(*embeddings, modality)
        every: list[dict[str, Tensor]] = []
        for coarse in self.model.training_logits(rgb, x, scene):
            logits, labels = self._at_pixels(coarse, batch["labels"], padded_size)
            every.append(self.loss(logits, labels, batch["native"], batch.get("share")))
        return {
            name: torch.stack([terms[name] for terms in every]).sum(dim=0) for name in every[0]
        }

    def _at_pixels(
        self, coarse: Tensor, labels: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Logits and labels of all pixels, (B, C, H, W) and (B, H, W), or of random ones.

        Args:
            coarse: logits (B, C, h, w) over an input of `size`.
            labels: (B, H, W).
            size: (height, width) with the border of `InputConfig.pad`.
        """
        if self.loss.config.points:
            return sample_points(coarse, labels, self.loss.config.points, size=size)
        height, width = labels.shape[-2:]
        return resize(coarse, size)[..., :height, :width], labels

    def weigh(self, batch: Batch) -> Tensor:
        """See `training.engine.loop.DivisibleObjective`."""
        return self.loss.weigh(batch["labels"], batch["native"])
