"""Whole frames embedded by the frozen MA-CLIP: computed once, kept on disk, drawn in training.

A node with `scene.refresh_every` above 1 reuses an embedding for some frames; training with
`ReuseConfig` gives the model such embeddings of an earlier or later frame.

Legend: N frames, V variants of a frame (`training.data.augment.Variant`), E embedding width.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from segrgbx_core.base.config import Config, option, to_plain
from segrgbx_core.base.errors import CheckpointError
from segrgbx_core.model.lora import adapter_tensors
from segrgbx_core.model.ma_clip import ModalityAwareClip
from segrgbx_core.model.tensor_files import SUFFIX, read_tensors, write_tensors
from segrgbx_core.runtime.batch import InputConfig
from segrgbx_core.sensors import SensorConfig, resamples_linearly, slot_of
from training.data.augment import Variant, Views, fitted, mirror, without
from training.data.datasets import Reader, sensor_of
from training.data.preparation import Preparation, prepare, read_ahead

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
    index = slot_of(frames.reader.modality, frames.preparation.encoding)
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
    inputs = {
        "ma_clip": to_plain(ma_clip.config),
        "encoding": to_plain(preparation.encoding),
        "sensor": to_plain(sensor_of(reader, preparation.sensor) or SensorConfig()),
        # The border of `pad` is not MA-CLIP's.
        "input": {name: value for name, value in to_plain(size).items() if name != "pad"},
        "variants": [variant.name for variant in Variant],
        "modality": reader.modality.value,
        "samples": len(reader),
    }
    identity = getattr(reader, "identity", "")
    if identity:
        inputs["identity"] = identity
    digest.update(json.dumps(inputs, sort_keys=True).encode())
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
    embeddings = tensors.get("embeddings")
    if embeddings is None or embeddings.ndim != 4 or embeddings.shape[1:3] != (len(Variant), 2):
        raise CheckpointError(f"{path}: holds no embeddings of shape (N, {len(Variant)}, 2, E)")
    return embeddings


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


class ReuseConfig(Config):
    """How often a sample gets the embedding of another moment.

    In data sets of sequences that is the embedding of a frame nearby; elsewhere it is that of the
    same frame mirrored.
    """

    probability: float = option(
        0.0, doc="share of samples with the embedding of another moment", low=0, high=1
    )
    reach: int = option(
        5, doc="largest distance in frames of the same sequence, before or after", low=1
    )
    noise: float = option(
        0.0,
        doc="largest noise on such an embedding relative to its root mean square",
        low=0,
        high=10,
    )


def sequences_of(reader: Reader) -> NDArray[np.int32] | None:
    """Which frames of a reader follow each other: the number of each one's sequence, int32 (N,).

    A reader of sequences has `ids` in the order of time and a `sequence_mark`: what stands before
    the last mark of an id names its sequence. None for readers of unrelated pictures.
    """
    mark: str | None = getattr(reader, "sequence_mark", None)
    if mark is None:
        return None
    ids: Sequence[str] = reader.ids  # type: ignore[attr-defined]
    names = [name.rpartition(mark)[0] for name in ids]
    return np.unique(names, return_inverse=True)[1].astype(np.int32)


def embedding_of(
    embeddings: Tensor,
    sequences: NDArray[np.int32] | None,
    view: tuple[int, Variant],
    reuse: ReuseConfig,
    rng: np.random.Generator,
) -> Tensor:
    """What MA-CLIP says to a training view, (2, E): of its frame, or of one that is reuse.

    Args:
        embeddings: of all frames, (N, V, 2, E).
        sequences: see `sequences_of`.
        view: number of the frame, and the variant that the training view shows.
        reuse: how often, how far, how noisy.
        rng: random generator; not advanced where the probability is 0.
    """
    index, variant = view
    if reuse.probability <= 0 or rng.random() >= reuse.probability:
        return embeddings[index, variant]
    near = _neighbours(sequences, index, reuse.reach)
    if near.size:
        embedded = embeddings[int(rng.choice(near)), variant]
    else:
        embedded = embeddings[index, _OTHER_WAY.get(variant, variant)]
    if reuse.noise > 0:
        grain = torch.from_numpy(rng.standard_normal(embedded.shape, dtype=np.float32))
        size = embedded.square().mean(dim=1, keepdim=True).sqrt()
        embedded = embedded + float(rng.uniform(0.0, reuse.noise)) * size * grain
    return embedded


_OTHER_WAY = {Variant.PLAIN: Variant.MIRRORED, Variant.MIRRORED: Variant.PLAIN}


def _neighbours(sequences: NDArray[np.int32] | None, index: int, reach: int) -> NDArray[np.int64]:
    if sequences is None:
        return np.empty(0, np.int64)
    first = max(0, index - reach)
    near = first + np.flatnonzero(sequences[first : index + reach + 1] == sequences[index])
    return near[near != index]
