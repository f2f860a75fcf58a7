"""Chooses the engine that the options ask for."""

from __future__ import annotations

import torch

from segrgbx_core.base.errors import ConfigError
from segrgbx_core.base.modality import Modality
from segrgbx_core.runtime.aot_package import AotEngine
from segrgbx_core.runtime.checkpoint import LoadedCheckpoint
from segrgbx_core.runtime.cuda_graph import CudaRecorder, GraphEngine
from segrgbx_core.runtime.devices import choose_device, choose_precision
from segrgbx_core.runtime.engine import EagerEngine, Engine
from segrgbx_core.runtime.exported import ExportedModel
from segrgbx_core.runtime.onnx_engine import OnnxEngine
from segrgbx_core.runtime.openvino_engine import OpenVinoEngine
from segrgbx_core.runtime.options import Backend, InferenceConfig
from segrgbx_core.runtime.scene_cache import Lane
from segrgbx_core.runtime.side_stream import SideStream

_CPU = torch.device("cpu")


def check_options(config: InferenceConfig) -> None:
    """Refuses what this machine cannot do or what would have no effect.

    Raises:
        ConfigError: for the first such option.
    """
    device = choose_device(config.device)
    if config.backend.runs_exported:
        _check_exported(config, device)
        return
    choose_precision(config.precision, device)
    if config.cuda_graph and device.type != "cuda":
        raise ConfigError(f"cuda_graph: needs a CUDA device, not {device}; leave it out")


def _check_exported(config: InferenceConfig, device: torch.device) -> None:
    backend = config.backend
    for name in ("compile", "cuda_graph"):
        if getattr(config, name):
            raise ConfigError(f"{name}: has no effect with backend {backend.value}; leave it out")
    if backend is not Backend.ONNX and config.device != "auto" and device.type != "cpu":
        raise ConfigError(f"device: backend {backend.value} runs on a CPU, not on {device}")
    if backend is Backend.OPENVINO:
        choose_precision(config.precision, _CPU)
    elif config.precision != "auto":
        raise ConfigError(
            f"precision: {config.precision} has no effect with backend {backend.value}, whose "
            "precision was chosen at export or is the provider's; leave it out"
        )


def make_engine(
    checkpoint: LoadedCheckpoint | ExportedModel,
    config: InferenceConfig,
    merge_for: Modality | None = None,
) -> Engine:
    """The engine for a checkpoint or an exported model.

    Args:
        checkpoint: what it runs.
        config: where and how.
        merge_for: the one modality to serve, or None. An exported model has its LoRA merged or
            not, whatever is asked for.

    Raises:
        ConfigError: when the options do not fit this machine, each other or the model.
    """
    check_options(config)
    device = choose_device(config.device)
    if isinstance(checkpoint, ExportedModel):
        if config.backend is Backend.AOT:
            return AotEngine(checkpoint, merge_for)
        if config.backend is Backend.OPENVINO:
            return OpenVinoEngine(checkpoint, choose_precision(config.precision, _CPU), merge_for)
        return OnnxEngine(checkpoint, config.onnx, device, merge_for)
    if config.backend.runs_exported:
        raise ConfigError(
            f"backend: {config.backend.value} runs exported models; export the checkpoint first"
        )
    precision = choose_precision(config.precision, device)
    engine: Engine = EagerEngine(checkpoint, device, precision, config, merge_for)
    if config.cuda_graph:
        engine = GraphEngine(engine, CudaRecorder(device))
    return engine


def make_lane(device: torch.device) -> Lane | None:
    """Where scenes are made beside the frames; None on a CPU, which has nothing beside."""
    return SideStream(device) if device.type == "cuda" else None
