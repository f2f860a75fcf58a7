"""LoRA adapters on disk: one small file per modality, with the hash of its tower."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segrgbx_core.base.config import to_plain
from segrgbx_core.base.errors import CheckpointError, shortened
from segrgbx_core.base.modality import Modality
from segrgbx_core.model.lora import adapter_tensors, set_adapter
from segrgbx_core.model.ma_clip import MaClipConfig, ModalityAwareClip
from segrgbx_core.model.tensor_files import (
    SUFFIX,
    parse_json_object,
    read_tensors,
    write_tensors,
)

KEY = "segrgbx_adapter"
_MUST_MATCH = ("tower", "image_size", "mean", "std", "quick_gelu", "lora_rank", "lora_alpha")


def save_adapter(
    path: Path | str,
    ma_clip: ModalityAwareClip,
    modality: Modality,
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Writes one modality's adapter, under peft's short tensor names.

    The header holds modality, the tower's name and preprocessing, rank, alpha and a hash of
    the frozen base.

    Args:
        path: a .safetensors file; an earlier one is replaced.
        ma_clip: whose adapter.
        modality: which of them.
        provenance: plain values about where it comes from, kept in the header too.

    Raises:
        CheckpointError: when the file cannot be written.
    """
    header = {
        "modality": modality.value,
        **_fingerprint(ma_clip),
        "provenance": dict(provenance or {}),
    }
    write_tensors(path, adapter_tensors(ma_clip.tower, modality), {KEY: json.dumps(header)})


def load_adapter(path: Path | str, ma_clip: ModalityAwareClip) -> Modality:
    """Puts an adapter file into the pool and says which modality it serves.

    Raises:
        CheckpointError: when the file is no adapter, is damaged or not finite, or was made for
            another tower, other weights, other preprocessing, or another rank or strength.
    """
    if ma_clip.merged is not None:
        raise CheckpointError(f"{path}: the {ma_clip.merged} adapter is merged; unmerge first")
    tensors, metadata = read_tensors(path)
    header = _header(path, metadata, ma_clip.modalities)
    modality = Modality(header["modality"])
    for name, own in _fingerprint(ma_clip).items():
        if header.get(name) != own:
            raise CheckpointError(
                f"{path}: made for {name} {shortened(str(header.get(name)))}, this MA-CLIP has "
                f"{own}; use the tower that the adapter was trained with"
            )
    set_adapter(ma_clip.tower, modality, tensors, where=str(path))
    return modality


def load_adapters(folder: Path | str, ma_clip: ModalityAwareClip) -> tuple[Modality, ...]:
    """Loads every adapter of a folder; see `load_adapter`.

    Raises:
        CheckpointError: when there is none, or one of them does not fit.
    """
    paths = sorted(Path(folder).glob(f"*{SUFFIX}"))
    if not paths:
        raise CheckpointError(f"{folder}: holds no adapter ({SUFFIX})")
    return tuple(load_adapter(path, ma_clip) for path in paths)


def _header(
    path: Path | str, metadata: Mapping[str, str], served: Sequence[Modality]
) -> dict[str, Any]:
    if KEY not in metadata:
        raise CheckpointError(f"{path}: is no adapter of a LoRA pool")
    header = parse_json_object(metadata[KEY], f"{path}: its adapter header")
    name = header.get("modality")
    if name not in served:
        raise CheckpointError(
            f"{path}: its adapter header names the modality {shortened(repr(name))}; expected one "
            f"of {', '.join(served)}"
        )
    return header


def _fingerprint(ma_clip: ModalityAwareClip) -> dict[str, Any]:
    plain = to_plain(ma_clip.config)
    assert set(_MUST_MATCH) <= set(MaClipConfig.model_fields)
    return {**{name: plain[name] for name in _MUST_MATCH}, "base_hash": ma_clip.base_hash()}
