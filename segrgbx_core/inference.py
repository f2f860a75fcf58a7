"""`Segmenter`: from RGB-X samples to label images, on one device, with one checkpoint.

Node, replay and evaluation call the same `predict`. There is one model whatever the number of
sensors: samples of different modalities and resolutions share one batch.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segrgbx_core.batch import Batch, InputConfig, ResizeMode, make_batch
from segrgbx_core.checkpoint import Contract, LoadedCheckpoint, load_checkpoint, random_weights
from segrgbx_core.decode import decode_logits
from segrgbx_core.encoders import SensorConfig, encode
from segrgbx_core.errors import ConfigError
from segrgbx_core.inference_options import InferenceConfig
from segrgbx_core.labels import UNIFIED, VOID, LabelSpace
from segrgbx_core.modality import Modality
from segrgbx_core.samples import Prediction, RgbxSample

__all__ = ["InferenceConfig", "PublishedLabels", "Segmenter"]

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class PublishedLabels:
    """The classes whose ids the labels of a `Prediction` hold.

    Attributes:
        space: `unified` or a data set's name.
        names: class names; position is the id.
        palette: one RGB colour per class.
        hash: fingerprint of the checkpoint's label space.
        unlabeled_id: id of pixels without an answer.
    """

    space: str
    names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    hash: str
    unlabeled_id: int = VOID

    @property
    def ids(self) -> tuple[int, ...]:
        """Every id that a label image can hold besides `unlabeled_id`."""
        return tuple(range(len(self.names)))


class Segmenter:
    """Segments RGB-X samples. One thread at a time.

    Attributes:
        checkpoint: weights and contract in use.
        classes: what the published ids mean.
        device: where the model runs.
        precision: fp32, fp16 or bf16.
        input: size in which the model sees images.
    """

    def __init__(
        self,
        checkpoint: LoadedCheckpoint,
        config: InferenceConfig | None = None,
        sensors: SensorConfig | None = None,
        label_space: str = UNIFIED,
        min_confidence: float = 0.0,
        merge_for: Modality | None = None,
    ) -> None:
        """Takes over the checkpoint's modules: moves them to the device and folds what folds.

        Args:
            checkpoint: weights and contract.
            config: where and how it runs.
            sensors: facts about the drivers.
            label_space: `unified`, or one of the contract's native spaces.
            min_confidence: pixels whose class is less probable become void, in [0, 1].
            merge_for: the one modality to serve, its LoRA merged into MA-CLIP; None serves all.

        Raises:
            ConfigError: when the device, precision or label space cannot be had.
            CheckpointError: when `merge_for` was not trained.
        """
        config = config or InferenceConfig()
        if not 0.0 <= min_confidence <= 1.0:
            raise ConfigError(f"min_confidence: {min_confidence:g} is outside [0, 1]")
        self.checkpoint = checkpoint
        self.sensors = sensors or SensorConfig()
        self.min_confidence = min_confidence
        self.device = choose_device(config.device)
        self.precision = choose_precision(config.precision, self.device)
        self.input = _input(checkpoint.contract.input, config)
        self.classes = _published(checkpoint.label_space, label_space)
        self.merge_for = merge_for
        self._columns = self._native_columns(label_space)
        self._model = checkpoint.model.eval().to(self.device)
        self._model.fold_head()
        self._ma_clip = checkpoint.ma_clip.to(self.device)
        self._layout = torch.channels_last if config.channels_last else torch.contiguous_format
        for layer in self._model.modules():
            if isinstance(layer, nn.Conv2d):
                layer.to(memory_format=self._layout)
        if merge_for is not None:
            checkpoint.require(merge_for)
            self._ma_clip.merge(merge_for, keep_base=False)
        # The frozen tower is cast once; SegRGB-X keeps float32 weights and runs under autocast,
        # which leaves norms, softmax and sums in float32.
        self._ma_clip.tower.to(_DTYPES[self.precision])

    @classmethod
    def from_checkpoint(
        cls,
        path: Path | str,
        config: InferenceConfig | None = None,
        sensors: SensorConfig | None = None,
        label_space: str = UNIFIED,
        min_confidence: float = 0.0,
        merge_for: Modality | None = None,
    ) -> Segmenter:
        """Loads a checkpoint; arguments and errors as in `Segmenter` and `load_checkpoint`."""
        config = config or InferenceConfig()
        # Options first: a wrong device should not cost the time of loading.
        choose_precision(config.precision, choose_device(config.device))
        loaded = load_checkpoint(path)
        return cls(loaded, config, sensors, label_space, min_confidence, merge_for)

    @classmethod
    def from_random_weights(
        cls,
        contract: Contract,
        config: InferenceConfig | None = None,
        sensors: SensorConfig | None = None,
        label_space: str = UNIFIED,
        min_confidence: float = 0.0,
    ) -> Segmenter:
        """An untrained segmenter for dry runs without a checkpoint; its labels mean nothing."""
        return cls(random_weights(contract), config, sensors, label_space, min_confidence)

    @property
    def contract(self) -> Contract:
        """What the checkpoint promises."""
        return self.checkpoint.contract

    @property
    def label_space(self) -> LabelSpace:
        """The checkpoint's label space."""
        return self.checkpoint.label_space

    @property
    def device_name(self) -> str:
        """The device in words, such as `cpu` or `cuda:0 (NVIDIA Orin)`."""
        if self.device.type != "cuda":
            return str(self.device)
        return f"{self.device} ({torch.cuda.get_device_name(self.device)})"

    @property
    def memory(self) -> int:
        """Bytes in use: on a GPU everything this process has allocated there, else the weights."""
        if self.device.type == "cuda":
            return torch.cuda.memory_allocated(self.device)
        tensors = [*self._model.state_dict().values(), *self._ma_clip.state_dict().values()]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def require(self, modality: Modality) -> None:
        """Checks that samples of this modality can be answered.

        Raises:
            CheckpointError: when the checkpoint was not trained for it.
            ConfigError: when another modality's LoRA is merged.
        """
        self.checkpoint.require(modality)
        if self.merge_for is not None and modality is not self.merge_for:
            raise ConfigError(
                f"segmenter: the LoRA of {self.merge_for} is merged, {modality} is not served; "
                "leave merge_for out to serve several modalities"
            )

    def predict(self, samples: Sequence[RgbxSample]) -> list[Prediction]:
        """Segments samples in one batch, each on the grid of its own RGB image.

        Args:
            samples: any mixture of trained modalities and of resolutions.

        Returns:
            one answer per sample, in their order.

        Raises:
            EncodingError: when an X sample does not fit its modality.
            CheckpointError: when a modality was not trained.
            ConfigError: when a modality other than the merged one is asked for.
        """
        if not samples:
            return []
        for sample in samples:
            self.require(sample.modality)
        start = time.perf_counter()
        x_images = [encode(sample, self.contract.encoding, self.sensors) for sample in samples]
        encode_ms = (time.perf_counter() - start) * 1e3
        answers, timings = self._segment(
            [sample.rgb for sample in samples], x_images, [sample.modality for sample in samples]
        )
        timings = {"encode": encode_ms, **timings}
        return [
            Prediction(
                labels=labels,
                confidence=confidence,
                x_image=x_image,
                modality=sample.modality,
                stamp_ns=sample.stamp_ns,
                frame_id=sample.frame_id,
                timings_ms=dict(timings),
            )
            for sample, x_image, (labels, confidence) in zip(
                samples, x_images, answers, strict=True
            )
        ]

    def warm_up(
        self,
        rgb_size: tuple[int, int] = (0, 0),
        modalities: Sequence[Modality] = (),
        batch_sizes: Sequence[int] = (1,),
    ) -> None:
        """Runs the model on blank images, so that the first real frame is not the slow one.

        Args:
            rgb_size: (height, width) of the RGB images to come; zeros take the input size.
            modalities: those to come; none takes the first that can be served.
            batch_sizes: batch sizes to come.
        """
        height, width = rgb_size if min(rgb_size) > 0 else (self.input.height, self.input.width)
        served = [self.merge_for] if self.merge_for else list(self.contract.modalities)
        chosen = list(modalities) or served[:1]
        rgb = np.zeros((height, width, 3), np.uint8)
        x = np.zeros((height, width, 3), np.float32)
        for size in batch_sizes:
            mixture = [chosen[index % len(chosen)] for index in range(size)]
            self._segment([rgb] * size, [x] * size, mixture)

    @torch.inference_mode()
    def _segment(
        self,
        rgb_images: Sequence[NDArray[np.uint8]],
        x_images: Sequence[NDArray[np.float32]],
        modalities: Sequence[Modality],
    ) -> tuple[list[tuple[NDArray[np.uint8], NDArray[np.uint8]]], dict[str, float]]:
        clock = StageClock(self.device)
        batch = make_batch(rgb_images, x_images, modalities, self.input, self.device)
        clock.lap("input")
        embeddings = self._embed(batch)
        clock.lap("clip")
        with self._autocast():
            rgb = batch.rgb.contiguous(memory_format=self._layout)
            x = batch.x.contiguous(memory_format=self._layout)
            scene = self._model.encode_scene(*embeddings, batch.modality)
            logits = self._model.coarse_logits(rgb, x, scene)
        if self._columns is not None:
            logits = logits.index_select(1, self._columns)
        clock.lap("model")
        size = (self.input.height, self.input.width)
        answers = decode_logits(logits, batch.placements, self.min_confidence, size)
        clock.lap("decode")
        return answers, clock.read()

    def _embed(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """MA-CLIP's embeddings; zeros for a network that does not look at them."""
        if self._model.needs_embeddings:
            return self._ma_clip(batch.rgb, batch.x, batch.modality)
        unused = batch.rgb.new_zeros(len(batch.modality), self._model.embed_dim)
        return unused, unused

    def _autocast(self) -> AbstractContextManager[object]:
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=_DTYPES[self.precision])

    def _native_columns(self, label_space: str) -> Tensor | None:
        if label_space == UNIFIED:
            return None
        columns = self.checkpoint.label_space.project_index(label_space)
        return torch.from_numpy(columns).to(self.device)


class StageClock:
    """Durations of consecutive stages; on a GPU by events, so that nothing waits in between."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._names: list[str] = []
        self._marks = [self._mark()]

    def lap(self, name: str) -> None:
        """Ends the stage that began at the lap before."""
        self._names.append(name)
        self._marks.append(self._mark())

    def read(self) -> dict[str, float]:
        """Milliseconds of each stage; waits until the last one has finished."""
        starts, ends = self._marks[:-1], self._marks[1:]
        return {
            name: self._between(start, end)
            for name, start, end in zip(self._names, starts, ends, strict=True)
        }

    def _mark(self) -> float | torch.cuda.Event:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event

    @staticmethod
    def _between(start: float | torch.cuda.Event, end: float | torch.cuda.Event) -> float:
        if isinstance(start, float) and isinstance(end, float):
            return (end - start) * 1e3
        assert isinstance(start, torch.cuda.Event)
        assert isinstance(end, torch.cuda.Event)
        end.synchronize()
        return start.elapsed_time(end)


def choose_device(name: str) -> torch.device:
    """The device that `auto`, `cpu`, `cuda` or `cuda:N` stands for.

    Raises:
        ConfigError: when a GPU is asked for by name and is not there.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda", 0) if count else torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device: '{name}' is not one of auto, cpu, cuda, cuda:N") from None
    if device.type == "cpu":
        return device
    if device.type != "cuda":
        raise ConfigError(f"device: '{name}' is not supported; use auto, cpu, cuda or cuda:N")
    index = device.index or 0
    if index >= count:
        found = f"{count} CUDA devices are there" if count else "torch sees no CUDA device"
        raise ConfigError(f"device: '{name}' cannot be used, {found}; use auto or cpu")
    return torch.device("cuda", index)


def choose_precision(name: str, device: torch.device) -> str:
    """The precision that `auto` stands for on this device, or `name` where the device can do it.

    Raises:
        ConfigError: when the device cannot compute in it.
    """
    if name == "auto":
        if device.type != "cuda":
            return "fp32"
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"
    if name not in _DTYPES:
        raise ConfigError(f"precision: '{name}' is not one of auto, {', '.join(_DTYPES)}")
    if name == "fp16" and device.type == "cpu":
        raise ConfigError("precision: fp16 is not supported on a CPU; use bf16, fp32 or auto")
    return name


def _input(trained: InputConfig, config: InferenceConfig) -> InputConfig:
    return InputConfig(
        height=config.input_height or trained.height,
        width=config.input_width or trained.width,
        resize_mode=ResizeMode(config.resize_mode) if config.resize_mode else trained.resize_mode,
    )


def _published(space: LabelSpace, name: str) -> PublishedLabels:
    chosen = space if name == UNIFIED else space.native(name)
    return PublishedLabels(name, tuple(chosen.names), tuple(chosen.palette), space.hash)
