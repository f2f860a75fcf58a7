"""From options to a ready `Segmenter`, the same for node and replay.

Imports torch, which takes seconds: import this module only when a model is wanted.
"""

from __future__ import annotations

import gc
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from segrgbx_core.base.errors import ConfigError
from segrgbx_core.base.modality import Modality
from segrgbx_core.base.process_memory import memory_mib
from segrgbx_core.runtime.checkpoint import LoadedCheckpoint, default_contract, random_weights
from segrgbx_core.runtime.devices import is_out_of_memory, keep_freed_memory
from segrgbx_core.runtime.exported import ExportedModel
from segrgbx_core.runtime.segmenter import AnswerSize, Segmenter, load_weights
from segrgbx_ros.config.node import NodeConfig, OutputConfig, OutputSize

MB = 2**20


@dataclass(frozen=True)
class MemoryFacts:
    """What is known of the memory that a model uses.

    Attributes:
        megabytes: figures in MB; `mem_free_mb` and `mem_total_mb` on a GPU.
        fault: what the device says instead of an answer, empty as a rule.
    """

    megabytes: dict[str, float]
    fault: str = ""


def load_warm_segmenter(config: NodeConfig) -> Segmenter:
    """Loads the model and warms it up with every batch size that can come.

    Raises:
        ConfigError: when an option does not fit the machine or the checkpoint, or the model not
            its memory.
        CheckpointError: when the checkpoint cannot be used.
    """
    modalities = [section.modality for _, section in config.sections()]
    # A fused mask asks for RGB alone besides.
    largest = min(config.batch.max_size, len(modalities) + len(config.fuse.members()))
    try:
        segmenter = load_segmenter(config)
        for _ in range(config.model.warmup_iterations):
            segmenter.warm_up(None, modalities, range(1, largest + 1))
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        text = str(error).split("\n", 1)[0]
        raise ConfigError(
            f"model.device: the memory of '{config.model.device}' does not suffice for "
            f"{largest} pairs at once ({text}); lower batch.max_size or model.input_height"
        ) from None
    return segmenter


def load_segmenter(config: NodeConfig) -> Segmenter:
    """Loads the checkpoint that `model.checkpoint` names and checks that it serves every pair.

    Where all pairs have one modality its LoRA adapter is merged, which is faster.

    Raises:
        ConfigError: when no checkpoint is named, or an option does not fit the machine or the
            checkpoint.
        CheckpointError: when the file is missing, foreign or not trained for a pair's modality.
    """
    if config.model.keep_memory:  # on a GPU, too: images come as fresh large blocks
        keep_freed_memory()
    modalities = {section.modality for _, section in config.sections()}
    model, label = config.model, config.label
    merge_for: Modality | None = None
    weights: LoadedCheckpoint | ExportedModel
    if model.checkpoint:
        merge_for = next(iter(modalities)) if len(modalities) == 1 else None
        weights = load_weights(Path(model.checkpoint), model, merge_for)
    elif model.allow_random_weights:
        weights = random_weights(default_contract("tiny"))
    else:
        raise ConfigError(
            "model.checkpoint: is empty; give the path of a .safetensors checkpoint, or set "
            "model.allow_random_weights for a dry run"
        )
    segmenter = Segmenter(
        weights,
        model,
        config.sensor,
        label.space,
        label.min_confidence,
        merge_for,
        config.output.confidence_kind,
        _answer_size(config.output),
    )
    for modality in sorted(modalities):
        segmenter.require(modality)
    _limit_memory(segmenter.device, model.max_memory_mb)
    return segmenter


def _answer_size(output: OutputConfig) -> AnswerSize:
    if output.size is OutputSize.CUSTOM:
        return output.height, output.width
    return "model" if output.size is OutputSize.MODEL else "rgb"


def _limit_memory(device: torch.device, max_mb: int) -> None:
    """Lets allocations of this process on a GPU fail beyond so many MB; 0 lets it have all."""
    if device.type != "cuda" or not max_mb:
        return
    index = torch.cuda.current_device() if device.index is None else device.index
    _, total = torch.cuda.mem_get_info(index)
    torch.cuda.set_per_process_memory_fraction(min(1.0, max_mb * MB / total), index)


def memory_facts(segmenter: Segmenter) -> MemoryFacts:
    """Memory of the process, of the model, and of the GPU where there is one."""
    figures = {"rss_mb": memory_mib()}
    try:
        figures["memory_mb"] = segmenter.memory / MB
        if segmenter.device.type == "cuda":
            figures |= _gpu_memory(segmenter.device)
    except RuntimeError as error:  # after a fault in a kernel every call to CUDA fails
        return MemoryFacts(figures, str(error).split("\n", 1)[0])
    return MemoryFacts(figures)


def _gpu_memory(device: torch.device) -> dict[str, float]:
    free, total = torch.cuda.mem_get_info(device)
    return {
        "mem_allocated_mb": torch.cuda.memory_allocated(device) / MB,
        "mem_reserved_mb": torch.cuda.memory_reserved(device) / MB,
        "mem_free_mb": free / MB,
        "mem_total_mb": total / MB,
    }


def free_memory() -> None:
    """Gives the memory of a segmenter that nobody holds any more back to the device."""
    gc.collect()
    with suppress(RuntimeError):  # a device with a fault frees nothing; see `memory_facts`
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
