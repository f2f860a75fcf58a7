"""Embeddings of whole frames by the frozen MA-CLIP, computed once and kept on disk.

Legend: N frames, V variants of a frame, E embedding width.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from segrgbx_core.base.config import to_plain
from segrgbx_core.base.errors import CheckpointError
from segrgbx_core.model.lora import adapter_tensors
from segrgbx_core.model.ma_clip import ModalityAwareClip
from segrgbx_core.model.tensor_files import SUFFIX, read_tensors, write_tensors
from segrgbx_core.runtime.batch import InputConfig, resize_image
from segrgbx_core.sensors import SensorConfig, resamples_linearly
from training.data.augment import Variant, Views, mirror, without
from training.data.datasets import Reader, sensor_of
from training.data.mixing import Preparation, prepare, read_ahead

KEY = "segrgbx_embeddings"


class WholeFrames(Dataset[dict[str, Tensor]]):
    """Frames as MA-CLIP sees them at run time, each in some variants.

    An item holds `rgb` and `x`, float32 (V, 3, H, W) in [0, 1].
    """

    def __init__(
        self,
        reader: Reader,
        preparation: Preparation,
        size: InputConfig,
        variants: Sequence[Variant],
        indices: Sequence[int],
    ) -> None:
        self.reader, self.preparation, self.size = reader, preparation, size
        self.variants, self.indices = tuple(variants), tuple(indices)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> dict[str, Tensor]:
        frame = prepare(self.reader, self.indices[position], self.preparation)
        views = [_variant(frame, variant, self.preparation) for variant in self.variants]
        size = (self.size.height, self.size.width)
        linear = resamples_linearly(frame.modality, self.preparation.encoding)
        return {
            "rgb": torch.stack([fitted(view.rgb, size, True) for view in views]),
            "x": torch.stack([fitted(view.x, size, linear) for view in views]),
        }


@torch.no_grad()
def embed_frames(
    frames: WholeFrames,
    ma_clip: ModalityAwareClip,
    workers: int = 0,
    batch_size: int = 1,
) -> Tensor:
    """MA-CLIP of every frame in every variant, on the device where MA-CLIP is.

    Args:
        frames: what to embed.
        ma_clip: frozen.
        workers: processes that load.
        batch_size: frames per forward pass.

    Returns:
        float32 (N, V, 2, E) on the CPU: RGB, then X.
    """
    device = next(ma_clip.parameters()).device
    index = frames.reader.modality.index
    rows = []
    loader = DataLoader(frames, batch_size=batch_size, num_workers=workers)
    label = f"embedding {frames.reader.native}"
    with tqdm(total=len(frames), unit="frame", desc=label, leave=False) as bar:
        for item in read_ahead(loader):
            rgb, x = (item[name].flatten(0, 1).to(device) for name in ("rgb", "x"))
            modality = torch.full((len(rgb),), index, device=device)
            pair = torch.stack(ma_clip(rgb, x, modality), dim=1)  # (n * V, 2, E)
            rows.append(pair.reshape(-1, len(frames.variants), *pair.shape[1:]).cpu())
            bar.update(len(item["rgb"]))
    return torch.cat(rows)


def fitted(image: Tensor, size: tuple[int, int], linear: bool) -> Tensor:
    """A whole image (3, h, w) on the model's grid, float32 (3, H, W) in [0, 1]."""
    resized = resize_image(image.permute(1, 2, 0).numpy(), *size, linear)
    tensor = torch.from_numpy(resized).permute(2, 0, 1)
    return tensor.float() / 255.0 if image.dtype == torch.uint8 else tensor


def embeddings_path(folder: Path | str, reader: Reader, split: str) -> Path:
    """Where the embeddings of one split lie."""
    return Path(folder) / f"{reader.native}_{reader.modality}_{split}{SUFFIX}"


def fingerprint(
    ma_clip: ModalityAwareClip, reader: Reader, preparation: Preparation, size: InputConfig
) -> str:
    """Identifies everything that decides the embeddings of a split, images aside."""
    digest = hashlib.sha256(ma_clip.base_hash().encode())
    for name, tensor in sorted(adapter_tensors(ma_clip.tower, reader.modality).items()):
        digest.update(name.encode())
        digest.update(tensor.float().cpu().contiguous().numpy().tobytes())
    facts = {
        "ma_clip": to_plain(ma_clip.config),
        "encoding": to_plain(preparation.encoding),
        "sensor": to_plain(sensor_of(reader, preparation.sensor) or SensorConfig()),
        "input": to_plain(size),
        "variants": [variant.name for variant in Variant],
        "modality": reader.modality.value,
        "samples": len(reader),
    }
    digest.update(json.dumps(facts, sort_keys=True).encode())
    return digest.hexdigest()


def write_embeddings(path: Path, embeddings: Tensor, mark: str) -> None:
    """Keeps embeddings (N, V, 2, E) with their `fingerprint`."""
    write_tensors(path, {"embeddings": embeddings}, {KEY: mark})


def read_embeddings(path: Path, mark: str) -> Tensor:
    """Embeddings (N, V, 2, E) of a split.

    Raises:
        CheckpointError: when the file is missing or was made by another MA-CLIP, encoding or size.
    """
    tensors, metadata = read_tensors(path)
    if metadata.get(KEY) != mark:
        raise CheckpointError(
            f"{path}: was made with another tower, adapter, encoding, sensor or input size; run "
            "`python -m training.train_ma_clip RUN --precompute` with the options of this run"
        )
    return tensors["embeddings"]


def kept_embeddings(path: Path, mark: str) -> Tensor | None:
    """As `read_embeddings`, but None where there is no file that fits."""
    try:
        return read_embeddings(path, mark)
    except CheckpointError:
        return None


def _variant(frame: Views, variant: Variant, preparation: Preparation) -> Views:
    if variant is Variant.MIRRORED:
        return mirror(frame, preparation.encoding)
    return without(frame, variant)
