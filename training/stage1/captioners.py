"""Who writes captions: plug-ins behind one call, `caption(pictures) -> list[str]`.

Nothing is downloaded unless `download` is set; a model is a folder on this machine otherwise.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from segrgbx_core.base.config import Config, PathText, option
from segrgbx_core.base.errors import ConfigError, DataError, did_you_mean
from segrgbx_core.labels.label_space import VOID
from training.stage1 import scene_captions

PAPER_PROMPT = "Describe the image at a high level in 20 words."
"""The paper's prompt (analysis of image caption generation)."""


@dataclass(frozen=True, eq=False)
class Picture:
    """What there is to say something about.

    Attributes:
        sample: `<data set>/<name>`, see `training.stage1.captions.sample_id`.
        rgb: uint8 (H, W, 3).
        labels: uint8 (H, W), ids of `class_names`, `VOID` unlabelled.
        class_names: the data set's own classes.
        unified_names: the unified class of each of them.
        facts: what else is known of the scene, see `Labelled`.
        groups: such as "night", see `Labelled`.
    """

    sample: str
    rgb: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    class_names: tuple[str, ...]
    unified_names: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    groups: tuple[str, ...] = ()


class Captioner(Protocol):
    """Writes one caption per picture.

    Attributes:
        origin: where captions come from, stored with each: model, revision, prompt, decoding.
    """

    origin: Mapping[str, Any]

    def caption(self, pictures: Sequence[Picture]) -> list[str]:
        """One sentence or two per picture, in order."""
        ...


class CaptionerConfig(Config):
    """Which captioner, and how it decodes."""

    backend: str = option("labels", doc="labels, scene, vlm, blip or file")
    model: PathText = option(
        "", doc="vlm, blip: folder or hub name of the model; file: JSONL with sample and text"
    )
    revision: str = option("", doc="hub revision; empty for the newest")
    prompt: str = option(PAPER_PROMPT, doc="what a vlm is asked")
    max_new_tokens: int = option(60, doc="longest answer", unit="tokens", low=1, high=512)
    batch_size: int = option(4, doc="pictures per call", low=1, high=256)
    download: bool = option(False, doc="allow a hub name to be fetched from the network")
    device: str = option("auto", doc="auto or cpu")
    seed: int = option(0, doc="random seed, for models that sample", low=0)


class LabelCaptioner:
    """A sentence from the classes of the mask, largest area first: no model, no network.

    Classes are grouped by their share of the labelled pixels, so that pictures of the same classes
    in other amounts get other captions.
    """

    _SHARES = ((0.2, "mostly"), (0.03, "some"), (0.0005, "a little"))
    _LONGEST = 14

    def __init__(self, config: CaptionerConfig) -> None:
        del config
        rule = "; ".join(f"{words} from {share:g}" for share, words in self._SHARES)
        self.origin: Mapping[str, Any] = {"decoding": {"shares": rule, "longest": self._LONGEST}}

    def caption(self, pictures: Sequence[Picture]) -> list[str]:
        """See `Captioner`."""
        return [self._sentence(picture) for picture in pictures]

    def _sentence(self, picture: Picture) -> str:
        counts = np.bincount(picture.labels.ravel(), minlength=VOID + 1)[:VOID]
        total = counts.sum()
        if total == 0:
            return "a picture without any labelled thing"
        order = sorted(np.flatnonzero(counts), key=lambda k: (-int(counts[k]), int(k)))
        left = [(picture.class_names[k], counts[k] / total) for k in order][: self._LONGEST]
        phrases = []
        for least, words in self._SHARES:
            names = [name for name, share in left if share >= least]
            left = [(name, share) for name, share in left if share < least]
            if names:
                phrases.append(f"{words} {_listed(names)}")
        return f"a picture of {', '.join(phrases)}"


def _listed(names: Sequence[str]) -> str:
    if len(names) == 1:
        return names[0]
    return f"{', '.join(names[:-1])} and {names[-1]}"


class SceneCaptioner:
    """What a driver would tell, from the mask and what the sample's record knows."""

    def __init__(self, config: CaptionerConfig) -> None:
        del config
        rules = {
            "smallest_share": scene_captions.SMALLEST_SHARE,
            "foggy": scene_captions.FOGGY,
            "wet": scene_captions.WET,
            "longest": scene_captions.LONGEST,
        }
        self.origin: Mapping[str, Any] = {"decoding": rules}

    def caption(self, pictures: Sequence[Picture]) -> list[str]:
        """See `Captioner`."""
        return [
            scene_captions.describe(item.labels, item.unified_names, item.facts, item.groups)
            for item in pictures
        ]


class FileCaptioner:
    """Captions that were written elsewhere: JSONL with `sample` and `text`."""

    def __init__(self, config: CaptionerConfig) -> None:
        path = Path(config.model)
        if not config.model:
            raise ConfigError("captioner: backend 'file' needs model, the path of a JSONL file")
        try:
            content = path.read_bytes()
            lines = [json.loads(line) for line in content.decode().splitlines() if line.strip()]
            self._texts = {str(line["sample"]): str(line["text"]) for line in lines}
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from None
        except (ValueError, KeyError, TypeError, RecursionError):
            raise DataError(
                f"{path}: is no caption file; expected lines with sample and text"
            ) from None
        digest = hashlib.sha256(content).hexdigest()
        self.origin: Mapping[str, Any] = {
            "model": path.name,
            "revision": f"sha256:{digest[:16]}",
        }

    def caption(self, pictures: Sequence[Picture]) -> list[str]:
        """See `Captioner`.

        Raises:
            DataError: when the file has no text for a picture.
        """
        missing = [item.sample for item in pictures if item.sample not in self._texts]
        if missing:
            raise DataError(f"captions: the file has no text for sample '{missing[0]}'")
        return [self._texts[picture.sample] for picture in pictures]


class VlmCaptioner:
    """Any image-text-to-text model with a chat template, asked with a prompt."""

    def __init__(self, config: CaptionerConfig) -> None:
        from transformers import AutoModelForImageTextToText, AutoProcessor  # noqa: PLC0415

        self._config = config
        self._device = _device(config.device)
        options = _loading_options(config)
        with _explained(config):
            self._processor = AutoProcessor.from_pretrained(config.model, **options)
            model = AutoModelForImageTextToText.from_pretrained(
                config.model, dtype="auto", **options
            )
        self._model = model.eval().to(self._device)
        if getattr(self._processor, "chat_template", None) is None:
            raise ConfigError(f"captioner: {config.model} has no chat template; use a chat model")
        self._processor.tokenizer.padding_side = "left"  # answers begin where prompts end
        self.origin: Mapping[str, Any] = _model_origin(config, model, config.prompt)

    @torch.inference_mode()
    def caption(self, pictures: Sequence[Picture]) -> list[str]:
        """See `Captioner`."""
        torch.manual_seed(self._config.seed)
        content = [{"type": "image"}, {"type": "text", "text": self._config.prompt}]
        prompt = self._processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        inputs = self._processor(
            text=[prompt] * len(pictures),
            images=[[Image.fromarray(picture.rgb)] for picture in pictures],
            padding=True,
            return_tensors="pt",
        ).to(self._device, self._model.dtype)
        tokens = self._model.generate(**inputs, **_decoding(self._config))
        answers = tokens[:, inputs["input_ids"].shape[1] :]
        texts = self._processor.batch_decode(answers, skip_special_tokens=True)
        return [_one_line(text) for text in texts]


class BlipCaptioner:
    """BLIP without a prompt, as the paper's comparison uses it."""

    def __init__(self, config: CaptionerConfig) -> None:
        from transformers import (  # noqa: PLC0415
            AutoProcessor,
            BlipForConditionalGeneration,
        )

        self._config = config
        self._device = _device(config.device)
        options = _loading_options(config)
        with _explained(config):
            self._processor = AutoProcessor.from_pretrained(config.model, **options)
            model = BlipForConditionalGeneration.from_pretrained(config.model, **options)
        self._model = model.eval().to(self._device)
        self.origin: Mapping[str, Any] = _model_origin(config, model, "")

    @torch.inference_mode()
    def caption(self, pictures: Sequence[Picture]) -> list[str]:
        """See `Captioner`."""
        torch.manual_seed(self._config.seed)
        images = [Image.fromarray(picture.rgb) for picture in pictures]
        pixels = self._processor.image_processor(images=images, return_tensors="pt").pixel_values
        tokens = self._model.generate(
            pixel_values=pixels.to(self._device), **_decoding(self._config)
        )
        texts = self._processor.batch_decode(tokens, skip_special_tokens=True)
        return [_one_line(text) for text in texts]


CAPTIONERS: dict[str, Callable[[CaptionerConfig], Captioner]] = {
    "labels": LabelCaptioner,
    "scene": SceneCaptioner,
    "vlm": VlmCaptioner,
    "blip": BlipCaptioner,
    "file": FileCaptioner,
}
"""Backends by name."""


def build_captioner(config: CaptionerConfig) -> Captioner:
    """The captioner that the config names.

    Raises:
        ConfigError: when there is none of that name, or it lacks a model.
    """
    if config.backend not in CAPTIONERS:
        hint = did_you_mean(config.backend, CAPTIONERS)
        raise ConfigError(f"captioner: backend '{config.backend}' is not known{hint}")
    if config.backend in ("vlm", "blip") and not config.model:
        raise ConfigError(
            f"captioner: backend '{config.backend}' needs model, a folder or, with download, a "
            "hub name"
        )
    return CAPTIONERS[config.backend](config)


def _device(name: str) -> torch.device:
    return torch.device("cuda" if name == "auto" and torch.cuda.is_available() else "cpu")


def _loading_options(config: CaptionerConfig) -> dict[str, Any]:
    return {"revision": config.revision or None, "local_files_only": not config.download}


def _decoding(config: CaptionerConfig) -> dict[str, Any]:
    return {"do_sample": False, "max_new_tokens": config.max_new_tokens}


def _model_origin(config: CaptionerConfig, model: Any, prompt: str) -> dict[str, Any]:
    revision = getattr(model.config, "_commit_hash", None) or config.revision
    folder = Path(config.model)
    if folder.is_dir():
        digest = hashlib.sha256()
        for path in sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin")):
            with path.open("rb") as file:
                while chunk := file.read(1 << 22):
                    digest.update(chunk)
        revision = f"sha256:{digest.hexdigest()[:16]}"
    return {
        "model": folder.name if folder.is_dir() else config.model,
        "revision": revision or "",
        "prompt": prompt,
        "decoding": _decoding(config),
    }


class _explained:  # noqa: N801  (a context manager)
    """Turns a model that cannot be loaded into one line for the user."""

    def __init__(self, config: CaptionerConfig) -> None:
        self._config = config

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (OSError, ValueError)):
            where = "" if self._config.download else "; hub names need download"
            first = str(error).strip().split("\n", maxsplit=1)[0]
            raise ConfigError(
                f"captioner: '{self._config.model}' cannot be loaded{where} ({first})"
            ) from None


def _one_line(text: str) -> str:
    return " ".join(text.split())
