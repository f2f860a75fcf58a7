"""`Segmenter`: from RGB-X samples to label images, on one device, with one checkpoint.

Node, replay and evaluation call the same `predict`. There is one model whatever the number of
sensors: samples of different modalities and resolutions share one batch.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segrgbx_core.base.errors import ConfigError, EncodingError
from segrgbx_core.base.images import MAX_FILE_PIXELS, size_fault
from segrgbx_core.base.modality import Modality
from segrgbx_core.base.samples import Prediction, RgbxSample
from segrgbx_core.labels.label_space import UNIFIED, LabelSpace, PublishedLabels
from segrgbx_core.runtime.backends import export_beside
from segrgbx_core.runtime.batch import (
    HostBuffers,
    InputConfig,
    Placement,
    ResizeMode,
    make_batch,
)
from segrgbx_core.runtime.checkpoint import (
    Contract,
    LoadedCheckpoint,
    load_checkpoint,
)
from segrgbx_core.runtime.decode import decode_logits
from segrgbx_core.runtime.devices import StageTimer, flushed_denormals, use_threads
from segrgbx_core.runtime.engines import CudaExecutor, check_options, make_engine
from segrgbx_core.runtime.exported import ExportedModel, read_exported, refuse_exported
from segrgbx_core.runtime.fusion import ClassScores, FusionWeights, fused_logits, fusion_weights
from segrgbx_core.runtime.options import Backend, ConfidenceKind, InferenceConfig
from segrgbx_core.runtime.scene_cache import SceneCache, StreamFrame, thumbnail
from segrgbx_core.sensors import SensorConfig, encode

__all__ = ["AnswerSize", "InferenceConfig", "Segmenter"]

AnswerSize: TypeAlias = tuple[int, int] | Literal["rgb", "model"]
"""Size of an answer: (height, width), the RGB image's, or the pixels that RGB takes up in the
model's input."""


class Segmenter:
    """Segments RGB-X samples. Not thread-safe.

    Attributes:
        checkpoint: name, hash and contract in use.
        classes: the published ids and names.
        engine: runs the network.
        device: where batches are.
        precision: fp32, fp16 or bf16.
        input: size of the model's input.
    """

    def __init__(
        self,
        checkpoint: LoadedCheckpoint | ExportedModel,
        config: InferenceConfig | None = None,
        sensors: SensorConfig | None = None,
        label_space: str = UNIFIED,
        min_confidence: float = 0.0,
        merge_for: Modality | None = None,
        confidence_kind: ConfidenceKind = ConfidenceKind.MAX_PROB,
        answer_size: AnswerSize = "rgb",
    ) -> None:
        """Takes ownership of the checkpoint's modules: moves them to the device, folds the head.

        Args:
            checkpoint: weights and contract, or an exported model.
            config: where and how it runs.
            sensors: facts about the drivers.
            label_space: `unified`, or one of the contract's native spaces.
            min_confidence: pixels whose class is less probable become void, in [0, 1].
            merge_for: the one modality to serve, its LoRA merged into MA-CLIP; None serves all.
            confidence_kind: meaning of the confidence images.
            answer_size: size of the label and confidence images.

        Raises:
            ConfigError: when the device, precision or label space is not available.
            CheckpointError: when `merge_for` was not trained.
        """
        config = config or InferenceConfig()
        self.checkpoint = checkpoint
        self.sensors = sensors or SensorConfig()
        self._min_confidence = _checked_confidence(min_confidence)
        self._confidence_kind = confidence_kind
        self._answer_size: AnswerSize = answer_size
        self.classes = _published(checkpoint.label_space, label_space)
        self.input = _input(checkpoint.contract.input, config)
        if merge_for is not None:
            checkpoint.require(merge_for)
        use_threads(config.threads)
        self.engine = make_engine(checkpoint, config, merge_for)
        self.device, self.precision = self.engine.device, self.engine.precision
        self.merge_for = self.engine.merged_for
        self._columns: dict[str, Tensor | None] = {UNIFIED: None}
        self._buffers = HostBuffers(self.device)
        # A CPU has nothing that would run beside the frames.
        submit = CudaExecutor(self.device).submit if self.device.type == "cuda" else None
        self._scenes = SceneCache(config.scene, self.engine.encode_scene, submit)

    @classmethod
    def from_checkpoint(
        cls,
        path: Path | str,
        config: InferenceConfig | None = None,
        sensors: SensorConfig | None = None,
        label_space: str = UNIFIED,
        min_confidence: float = 0.0,
        merge_for: Modality | None = None,
        confidence_kind: ConfidenceKind = ConfidenceKind.MAX_PROB,
        answer_size: AnswerSize = "rgb",
    ) -> Segmenter:
        """Loads a checkpoint or an exported model; arguments and errors as in `Segmenter`.

        Raises:
            CheckpointError: as `load_weights`.
        """
        return cls(
            load_weights(path, config or InferenceConfig(), merge_for),
            config,
            sensors,
            label_space,
            min_confidence,
            merge_for,
            confidence_kind,
            answer_size,
        )

    @property
    def contract(self) -> Contract:
        """The checkpoint's contract."""
        return self.checkpoint.contract

    @property
    def label_space(self) -> LabelSpace:
        """The checkpoint's label space."""
        return self.checkpoint.label_space

    @property
    def device_name(self) -> str:
        """Runtime and device, such as `cpu`, `cuda:0 (NVIDIA Orin)` or `onnxruntime cpu`."""
        return self.engine.name

    @property
    def memory(self) -> int:
        """Bytes in use: on a GPU everything this process has allocated there, else the weights."""
        return self.engine.memory

    @property
    def warning(self) -> str:
        """What to log when the model is loaded; empty as a rule. See `Contract.warning`."""
        return self.contract.warning

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

    def classes_of(self, label_space: str) -> PublishedLabels:
        """The classes of a label space.

        Raises:
            ConfigError: when the checkpoint does not serve it.
        """
        return _published(self.checkpoint.label_space, label_space)

    def predict(
        self,
        samples: Sequence[RgbxSample],
        streams: Sequence[str] = (),
        label_spaces: Sequence[str] = (),
        min_confidence: float | None = None,
        keep_scores: bool = False,
    ) -> list[Prediction]:
        """Segments samples in one batch, each on the grid of its own RGB image.

        Args:
            samples: any mixture of trained modalities and of resolutions.
            streams: where each sample comes from. Samples of one stream follow each other in time
                and may share a scene (`InferenceConfig.scene`); none: every sample gets its own,
                whatever the options say.
            label_spaces: of each answer; none: the segmenter's own.
            min_confidence: in place of the segmenter's own.
            keep_scores: keep in every answer what `fuse` needs.

        Returns:
            one answer per sample, in their order.

        Raises:
            EncodingError: when an X sample does not fit its modality, or an image is too large.
            CheckpointError: when a modality was not trained.
            ConfigError: when a modality other than the merged one, or a label space that the
                checkpoint does not know, is asked for.
            ModelOutputError: when a sample has not one finite logit.
        """
        if not samples:
            return []
        self._require_samples(samples)
        start = time.perf_counter()
        x_images = [encode(sample, self.contract.encoding, self.sensors) for sample in samples]
        encode_ms = (time.perf_counter() - start) * 1e3
        frames = self._stream_frames(samples, x_images, streams) if streams else None
        modalities = [sample.modality for sample in samples]
        limit = self._limit(min_confidence)
        rgb = [sample.rgb for sample in samples]
        with flushed_denormals():
            answers, ages, timings, scores = self._segment(
                rgb, x_images, modalities, frames, label_spaces, limit, keep_scores
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
                scene_age=age,
                scores=score,
            )
            for sample, x_image, age, (labels, confidence), score in zip(
                samples, x_images, ages, answers, scores, strict=True
            )
        ]

    def fusion_weights(self, modalities: Sequence[Modality]) -> FusionWeights:
        """Weights of the members of a fused answer; see `runtime.fusion`."""
        return fusion_weights([str(one) for one in modalities], self.contract.fusion)

    @torch.inference_mode()
    def fuse(
        self,
        members: Sequence[Prediction],
        rgb_alone: Prediction | None = None,
        label_space: str = "",
        min_confidence: float | None = None,
    ) -> Prediction:
        """One answer from those of several sensors beside one RGB image.

        Args:
            members: answers of `predict` with scores; at least one.
            rgb_alone: the answer without X, where `fusion_weights` needs it.
            label_space: of the answer; empty: the segmenter's own.
            min_confidence: in place of the segmenter's own.

        Returns:
            labels and confidence on the grid of the first member's answer, with its X image; its
            `timings_ms` holds `fuse` alone.

        Raises:
            ModelOutputError: when there is no finite logit.
        """
        start = time.perf_counter()
        limit = self._limit(min_confidence)
        weights = self.fusion_weights([one.modality for one in members])
        scores: list[ClassScores] = [one.scores for one in members]
        alone = rgb_alone.scores.logits if rgb_alone is not None and weights.needs_rgb else None
        logits = fused_logits([one.logits for one in scores], weights, alone)
        [(labels, confidence)] = decode_logits(
            logits[None],
            [scores[0].placement],
            limit,
            self.input.canvas,
            self._confidence_kind,
            [self._native_columns(label_space or self.classes.space)],
        )
        elapsed_ms = (time.perf_counter() - start) * 1e3
        return replace(
            members[0],
            labels=labels,
            confidence=confidence,
            timings_ms={"fuse": elapsed_ms},
            scores=None,
        )

    def _limit(self, min_confidence: float | None) -> float:
        if min_confidence is None:
            return self._min_confidence
        return _checked_confidence(min_confidence)

    def _require_samples(self, samples: Sequence[RgbxSample]) -> None:
        for sample in samples:
            self.require(sample.modality)
            height, width = sample.rgb.shape[:2]
            if fault := size_fault(height, width, MAX_FILE_PIXELS):
                raise EncodingError(f"rgb: {fault}")

    def forget_scenes(self) -> None:
        """Drops the scenes kept per stream, as after a reset."""
        self._scenes.clear()

    def warm_up(
        self,
        rgb_size: tuple[int, int] | None = None,
        modalities: Sequence[Modality] = (),
        batch_sizes: Sequence[int] = (1,),
    ) -> None:
        """Runs the model on blank images, so that the first real frame is not the slow one.

        Args:
            rgb_size: (height, width) of the RGB images to come; None takes the input size.
            modalities: those to come; none takes the first that can be served.
            batch_sizes: batch sizes to come.
        """
        height, width = rgb_size or (self.input.height, self.input.width)
        served = [self.merge_for] if self.merge_for else list(self.contract.modalities)
        expected = list(modalities) or served[:1]
        rgb = np.zeros((height, width, 3), np.uint8)
        x = np.zeros((height, width, 3), np.float32)
        for size in batch_sizes:
            mixture = [expected[index % len(expected)] for index in range(size)]
            with flushed_denormals():
                self._segment([rgb] * size, [x] * size, mixture)

    @torch.inference_mode()
    def _segment(
        self,
        rgb_images: Sequence[NDArray[np.uint8]],
        x_images: Sequence[NDArray[np.float32]],
        modalities: Sequence[Modality],
        frames: Sequence[StreamFrame] | None = None,
        label_spaces: Sequence[str] = (),
        min_confidence: float = 0.0,
        keep_scores: bool = False,
    ) -> tuple[
        list[tuple[NDArray[np.uint8], NDArray[np.uint8]]],
        list[int],
        dict[str, float],
        Sequence[ClassScores | None],
    ]:
        timer = StageTimer(self.device)
        spaces = label_spaces or [self.classes.space] * len(rgb_images)
        columns = [self._native_columns(space) for space in spaces]
        encoding = self.contract.encoding
        batch = make_batch(rgb_images, x_images, modalities, self.input, encoding, self._buffers)
        timer.end_stage("input")
        if frames is None:
            scene, ages = self.engine.encode_scene(batch), [0] * len(batch)
        else:
            scene, ages = self._scenes.scenes_of(batch, frames)
        timer.end_stage("scene")
        logits = self.engine.coarse_logits(batch, scene)
        timer.end_stage("model")
        logits = self._calibrated(logits, modalities)
        placements = [self._with_answer_size(placement) for placement in batch.placements]
        answers = decode_logits(
            logits,
            placements,
            min_confidence,
            self.input.canvas,
            self._confidence_kind,
            columns,
        )
        timer.end_stage("decode")
        scores: list[ClassScores | None] = [None] * len(batch)
        if keep_scores:  # a copy: a recorded graph overwrites its logits in the next pass
            scores = [
                ClassScores(one.clone(), placement)
                for one, placement in zip(logits, placements, strict=True)
            ]
        return answers, ages, timer.durations_ms(), scores

    def _calibrated(self, logits: Tensor, modalities: Sequence[Modality]) -> Tensor:
        """Logits (B, C, h, w) over the contract's temperatures; as they are where it has none."""
        temperatures = self.contract.temperatures
        if not temperatures:
            return logits
        factors = [1 / temperatures.get(modality.value, 1.0) for modality in modalities]
        return (
            logits.float() * logits.new_tensor(factors, dtype=torch.float32)[:, None, None, None]
        )

    def _stream_frames(
        self,
        samples: Sequence[RgbxSample],
        x_images: Sequence[NDArray[np.float32]],
        streams: Sequence[str],
    ) -> list[StreamFrame]:
        small = thumbnail if self._scenes.uses_thumbnails else lambda *_: None
        return [
            StreamFrame(stream, sample.modality, sample.stamp_ns, small(sample.rgb, x_image))
            for sample, x_image, stream in zip(samples, x_images, streams, strict=True)
        ]

    def _with_answer_size(self, placement: Placement) -> Placement:
        """A sample's rectangle with the size of its answer in place of its RGB image's."""
        if self._answer_size == "rgb":
            return placement
        if self._answer_size == "model":
            height, width = placement.height, placement.width
        else:
            height, width = self._answer_size
        return replace(placement, rgb_height=height, rgb_width=width)

    def _native_columns(self, label_space: str) -> Tensor | None:
        if label_space not in self._columns:
            columns = self.checkpoint.label_space.project_index(label_space)
            self._columns[label_space] = torch.from_numpy(columns).to(self.device)
        return self._columns[label_space]


def load_weights(
    path: Path | str, config: InferenceConfig, merge_for: Modality | None = None
) -> LoadedCheckpoint | ExportedModel:
    """Reads a checkpoint, or the folder of an exported model where `config.backend` runs one.

    Args:
        path: the file or folder.
        config: where and how it will run.
        merge_for: as in `Segmenter`; `backend: auto` prefers its export.

    Raises:
        ConfigError: when an option does not fit this machine; before anything is read.
        CheckpointError: as `load_checkpoint` and `read_exported`.
    """
    check_options(config)
    if config.backend.runs_exported:
        return read_exported(path)
    refuse_exported(path)
    if config.backend is Backend.AUTO and (model := export_beside(path, config, merge_for)):
        return model
    return load_checkpoint(path)


def _checked_confidence(value: float) -> float:
    if not 0.0 <= value <= 1.0:
        raise ConfigError(f"min_confidence: {value:g} is outside [0, 1]")
    return value


def _input(trained: InputConfig, config: InferenceConfig) -> InputConfig:
    return InputConfig(
        height=config.input_height or trained.height,
        width=config.input_width or trained.width,
        resize_mode=ResizeMode(config.resize_mode) if config.resize_mode else trained.resize_mode,
        pad=trained.pad,
    )


def _published(space: LabelSpace, name: str) -> PublishedLabels:
    table = space if name == UNIFIED else space.native(name)
    return PublishedLabels(table.names, table.palette, space=name, hash=space.hash)
