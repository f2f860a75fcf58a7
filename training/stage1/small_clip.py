"""A small CLIP of one's own: both towers in one file, which says itself how large they are.

The image tower is MA-CLIP's (`model.clip_vit`), the text tower open_clip's text transformer behind
open_clip's tokenizer. Tensors are named as in open_clip: `visual.trunk.*`, `text.*`,
`logit_scale`.

Legend: B images or texts, S side of the image, L tokens, E embedding width.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transformer import TextTransformer
from torch import Tensor, nn

from segrgbx_core.base.config import from_mapping, to_plain
from segrgbx_core.base.errors import CheckpointError, ConfigError, SegrgbxError, shortened
from segrgbx_core.model.ma_clip import MaClipConfig, build_tower
from segrgbx_core.model.tensor_files import (
    TensorFile,
    check_numbers,
    check_shapes,
    parse_json_object,
    write_tensors,
)
from training.stage1.config import TextTowerConfig

KEY = "segrgbx_small_clip"
MAX_SCALE = 100.0
"""Largest factor of cosine similarities, as CLIP's."""


class SmallClip(nn.Module):
    """Image and text tower.

    Args:
        tower: image tower; its LoRA options do not count.
        text: text tower.
        scale: factor of cosine similarities to start from.

    Attributes:
        logit_scale: logarithm of the factor.
    """

    def __init__(self, tower: MaClipConfig, text: TextTowerConfig, scale: float = 10.0) -> None:
        super().__init__()
        self.tower_config, self.text_config = tower, text
        self.visual = nn.ModuleDict({"trunk": build_tower(tower)})
        self.text = TextTransformer(
            context_length=text.context,
            width=text.width,
            heads=text.num_heads,
            layers=text.depth,
            output_dim=tower.output_dim,
        )
        self.logit_scale = nn.Parameter(torch.tensor(math.log(scale)))

    @property
    def facts(self) -> dict[str, Any]:
        """Sizes of both towers, plain values."""
        return {"tower": tower_facts(self.tower_config), "text": to_plain(self.text_config)}

    def encode_image(self, images: Tensor) -> Tensor:
        """Prepared images (B, 3, S, S) to (B, E), not normalised."""
        embeddings: Tensor = self.visual["trunk"](images)
        return embeddings

    def encode_text(self, tokens: Tensor) -> Tensor:
        """int64 (B, L) to (B, E), not normalised."""
        embeddings: Tensor = self.text(tokens)
        return embeddings

    def scale(self) -> Tensor:
        """Factor of cosine similarities, at most `MAX_SCALE`."""
        return self.logit_scale.clamp(max=math.log(MAX_SCALE)).exp()

    def tokenize(self, texts: list[str]) -> Tensor:
        """Texts to int64 (len(texts), L); longer ones are cut."""
        tokens: Tensor = SimpleTokenizer()(texts, context_length=self.text_config.context)
        return tokens


def tower_facts(config: MaClipConfig) -> dict[str, Any]:
    """Options of an image tower without those of its LoRA pool."""
    plain = to_plain(config)
    return {name: value for name, value in plain.items() if not name.startswith("lora_")}


def write_small_clip(path: Path, clip: SmallClip, provenance: Mapping[str, Any]) -> None:
    """Writes both towers, their sizes and where they come from; complete or not at all."""
    header = {**clip.facts, "provenance": dict(provenance)}
    write_tensors(path, clip.state_dict(), {KEY: json.dumps(header)})


def read_small_clip(path: Path | str) -> SmallClip:
    """Reads what `write_small_clip` wrote.

    Raises:
        CheckpointError: when the file is missing, damaged or comes from elsewhere.
    """
    if not str(path):
        raise ConfigError("text.weights: is empty; name a file of `python -m training.train_clip`")
    with TensorFile(path) as file:
        if KEY not in file.metadata:
            raise CheckpointError(
                f"{path}: holds no towers of `python -m training.train_clip`; for other CLIP "
                "weights set text.model to their open_clip name"
            )
        clip = _built(file.metadata[KEY], str(path))
        own = clip.state_dict()
        check_shapes(own, file.shapes, str(path))
        tensors, _ = file.read()
    check_numbers(own, tensors, str(path))
    clip.load_state_dict(tensors)
    return clip


def _built(text: str, where: str) -> SmallClip:
    header = parse_json_object(text, where)
    try:
        tower = from_mapping(MaClipConfig, dict(header["tower"]), "tower")
        text_tower = from_mapping(TextTowerConfig, dict(header["text"]), "text")
        return SmallClip(tower, text_tower)
    except (KeyError, TypeError, ValueError, AssertionError, RuntimeError, SegrgbxError) as error:
        raise CheckpointError(
            f"{where}: its header is damaged ({shortened(str(error))}); train it anew"
        ) from None


def require_same_tower(facts: Mapping[str, Any], tower: MaClipConfig, where: str) -> None:
    """Refuses an image tower of other sizes than the file's.

    Raises:
        ConfigError: naming the first option that differs.
    """
    for name, value in tower_facts(tower).items():
        if facts["tower"][name] != value:
            raise ConfigError(
                f"ma_clip.{name}: is {value}, but {where} was trained with "
                f"{facts['tower'][name]}; take the same `tower` and `ma_clip` as there"
            )
