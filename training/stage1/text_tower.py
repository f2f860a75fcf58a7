"""The frozen CLIP of stage 1: texts to embeddings once, and the image half for the timm tower.

Only here is open_clip's model used; later stages read what this one left in the run's folder.

Legend: U different captions, E embedding width.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor, nn
from tqdm import tqdm

from segrgbx_core.base.config import to_plain
from segrgbx_core.base.errors import CheckpointError, ConfigError, did_you_mean, shortened
from segrgbx_core.model.clip_weights import load_image_tower
from segrgbx_core.model.ma_clip import MaClipConfig, ModalityAwareClip
from segrgbx_core.model.tensor_files import file_hash, read_tensors, write_tensors
from training.stage1.config import SMALL, TINY, MaClipRun, TextConfig
from training.stage1.small_clip import read_small_clip, require_same_tower

KEY = "segrgbx_frozen_clip"
TOWER_FILE = "tower.safetensors"
TEXT_FILE = "texts.safetensors"


@dataclass(frozen=True, eq=False)
class TextTable:
    """Text embeddings of a run's captions.

    Attributes:
        captions: int64 (U,), caption ids, rising.
        embeddings: float32 (U, E), S^t, not normalised.
        scale: CLIP's factor of cosine similarities.
        bias: offset of logits, 0 for all but SigLIP.
    """

    captions: Tensor
    embeddings: Tensor
    scale: float
    bias: float

    def rows(self, captions: Tensor) -> Tensor:
        """Position of each caption id in the table; all must be there."""
        positions = torch.searchsorted(self.captions, captions)
        assert torch.equal(self.captions[positions], captions)
        return positions

    def by_caption(self) -> dict[int, Tensor]:
        """Embedding (E,) of each caption id."""
        return dict(zip(self.captions.tolist(), self.embeddings, strict=True))

    def holds(self, captions: Iterable[int]) -> bool:
        """True where every caption id has a row."""
        return set(captions) <= set(self.captions.tolist())


@dataclass(frozen=True, eq=False)
class FrozenClip:
    """open_clip's model while texts are embedded.

    Attributes:
        model: both towers.
        tokenize: texts to tokens.
        is_random: True where no weights were loaded.
    """

    model: nn.Module
    tokenize: Callable[[list[str]], Tensor]
    is_random: bool

    @torch.inference_mode()
    def embed(self, texts: list[str], device: torch.device, batch_size: int = 256) -> Tensor:
        """Embeddings of texts, float32 (len(texts), E), not normalised."""
        model: Any = self.model.to(device)
        rows = []
        starts = range(0, len(texts), batch_size)
        for start in tqdm(starts, desc="embedding captions", unit="batch"):
            tokens = self.tokenize(texts[start : start + batch_size]).to(device)
            rows.append(model.encode_text(tokens).float().cpu())
        return torch.cat(rows).clone()


def frozen_parts(
    run: MaClipRun, texts: Mapping[int, str], device: torch.device
) -> tuple[TextTable, ModalityAwareClip]:
    """What stage 1 holds fixed: text embeddings, and the image tower with a pool of zeros.

    Both come from the run's folder where they lie there already, and are left there otherwise.

    Args:
        run: the run.
        texts: every caption by its id.
        device: where texts are embedded.

    Raises:
        CheckpointError: when weights do not load, or the folder holds another run's parts.
        ConfigError: when model, weights and image tower do not belong together.
    """
    folder = Path(run.run.out)
    source = _source(run)
    table = _read_table(folder / TEXT_FILE, source)
    has_tower = (folder / TOWER_FILE).exists()
    clip = None
    if table is None or not table.holds(texts) or not has_tower:
        clip = load_clip(run.text, run.ma_clip, run.run.seed)
    if clip is not None and (table is None or not table.holds(texts)):
        table = _make_table(clip, texts, device)
        _write_table(folder / TEXT_FILE, table, source)
    assert table is not None
    torch.manual_seed(run.run.seed)
    ma_clip = ModalityAwareClip(run.ma_clip)
    if clip is not None and not has_tower:
        if not clip.is_random:
            load_image_tower(ma_clip.tower, clip.model.state_dict(), _name(run.text))
        state = ma_clip.tower.state_dict()
        base = {name: tensor for name, tensor in state.items() if ".lora_" not in name}
        write_tensors(folder / TOWER_FILE, base, {KEY: json.dumps(source)})
    tensors, metadata = read_tensors(folder / TOWER_FILE)
    _require_source(folder / TOWER_FILE, metadata, source)
    load_image_tower(ma_clip.tower, tensors, str(folder / TOWER_FILE))
    return table, ma_clip


def load_clip(config: TextConfig, tower: MaClipConfig, seed: int = 0) -> FrozenClip:
    """open_clip's model as the run names it.

    Raises:
        ConfigError: when the name or tag is not known, or the image tower does not match it.
        CheckpointError: when the weights cannot be had.
    """
    if config.model == SMALL:
        if config.pretrained:
            raise ConfigError("text.pretrained: names a tag of open_clip; 'small' takes weights")
        small = read_small_clip(config.weights)
        require_same_tower(small.facts, tower, config.weights)
        return FrozenClip(small.eval().requires_grad_(False), small.tokenize, is_random=False)
    if config.model == TINY:
        if config.weights or config.pretrained:
            raise ConfigError("text: the tiny tower takes no weights")
        return FrozenClip(_tiny(tower, seed), open_clip.SimpleTokenizer(), is_random=True)
    _check(config, tower)
    torch.manual_seed(seed)
    source = config.weights or config.pretrained or None
    if config.weights and not Path(config.weights).is_file():
        raise CheckpointError(f"{config.weights}: does not exist; expected CLIP weights")
    try:
        model = open_clip.create_model(
            config.model, pretrained=source, force_quick_gelu=tower.quick_gelu
        )
        tokenize = open_clip.get_tokenizer(config.model)
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        first = str(error).strip().split("\n", maxsplit=1)[0]
        raise CheckpointError(f"{_name(config)}: cannot be loaded ({first})") from None
    model.eval().requires_grad_(False)
    return FrozenClip(model, tokenize, is_random=source is None)


def _tiny(tower: MaClipConfig, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    vision = open_clip.CLIPVisionCfg(
        image_size=16, layers=1, width=32, head_width=32, patch_size=16
    )
    text = open_clip.CLIPTextCfg(width=32, heads=2, layers=1)
    model: nn.Module = open_clip.CLIP(tower.output_dim, vision, text).eval()
    return model.requires_grad_(False)


def _check(config: TextConfig, tower: MaClipConfig) -> None:
    settings = open_clip.get_model_config(config.model)
    if settings is None:
        hint = did_you_mean(config.model, open_clip.list_models())
        raise ConfigError(f"text.model: open_clip has no '{config.model}'{hint}")
    if config.pretrained:
        tags = open_clip.list_pretrained_tags_by_model(config.model)
        if config.pretrained not in tags:
            hint = did_you_mean(config.pretrained, tags)
            raise ConfigError(
                f"text.pretrained: '{config.model}' has no tag '{config.pretrained}'{hint}"
            )
        settings = {**settings, **open_clip.get_pretrained_cfg(config.model, config.pretrained)}
    elif {"hf_tokenizer_name", "hf_model_name"} & set(settings["text_cfg"]):
        raise ConfigError(
            f"text.model: the tokenizer of '{config.model}' lies on a hub; set text.pretrained, "
            "which allows the network"
        )
    stated = {
        "output_dim": (settings["embed_dim"], tower.output_dim),
        "quick_gelu": (bool(settings.get("quick_gelu", False)), tower.quick_gelu),
        "mean": (tuple(settings.get("mean", tower.mean)), tower.mean),
        "std": (tuple(settings.get("std", tower.std)), tower.std),
    }
    for name, (theirs, ours) in stated.items():
        if theirs != ours:
            raise ConfigError(
                f"ma_clip.{name}: is {ours}, but {_name(config)} was trained with {theirs}; "
                "choose the matching `tower`"
            )


def _name(config: TextConfig) -> str:
    return " ".join(filter(None, (config.model, config.pretrained, config.weights)))


def _source(run: MaClipRun) -> dict[str, Any]:
    path = Path(run.text.weights)
    plain = to_plain(run.ma_clip)
    is_random = not (run.text.weights or run.text.pretrained)
    mark = {"hash": file_hash(path)} if run.text.model == SMALL and path.is_file() else {}
    return {
        **mark,
        "text": to_plain(run.text),
        "bytes": path.stat().st_size if run.text.weights and path.is_file() else 0,
        "tower": {k: v for k, v in plain.items() if not k.startswith("lora_")},
        "seed": run.run.seed if is_random else None,
    }


def _require_source(path: Path, metadata: Mapping[str, str], source: Mapping[str, Any]) -> None:
    try:
        stated = json.loads(metadata.get(KEY, "null"))
    except (ValueError, RecursionError):
        stated = None
    if stated != source:
        raise CheckpointError(
            f"{path}: comes from another CLIP than the run names; choose another run.out, or "
            "remove the folder to start anew"
        )


def _make_table(clip: FrozenClip, texts: Mapping[int, str], device: torch.device) -> TextTable:
    order = sorted(texts)
    model: Any = clip.model
    bias = getattr(model, "logit_bias", None)
    return TextTable(
        captions=torch.tensor(order, dtype=torch.int64),
        embeddings=clip.embed([texts[key] for key in order], device),
        scale=float(model.logit_scale.exp()),
        bias=0.0 if bias is None else float(bias),
    )


def _write_table(path: Path, table: TextTable, source: Mapping[str, Any]) -> None:
    tensors = {"captions": table.captions, "embeddings": table.embeddings}
    settings = {"scale": repr(table.scale), "bias": repr(table.bias), KEY: json.dumps(source)}
    write_tensors(path, tensors, settings)


def _read_table(path: Path, source: Mapping[str, Any]) -> TextTable | None:
    if not path.exists():
        return None
    tensors, metadata = read_tensors(path)
    _require_source(path, metadata, source)
    try:
        table = TextTable(
            tensors["captions"],
            tensors["embeddings"],
            float(metadata["scale"]),
            float(metadata["bias"]),
        )
        if table.captions.dtype != torch.int64 or len(table.captions) != len(table.embeddings):
            raise ValueError("captions and embeddings do not belong together")
    except (KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path}: is damaged ({shortened(str(error))}); remove it, it is made anew"
        ) from None
    return table
