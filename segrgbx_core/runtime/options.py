"""How a checkpoint runs, as options; free of torch, for the configs of node and replay."""

from __future__ import annotations

import re
from enum import Enum

from pydantic import field_validator

from segrgbx_core.base.config import Config, option
from segrgbx_core.base.errors import did_you_mean

PROVIDERS = ("auto", "cpu", "cuda", "tensorrt", "openvino", "rocm")
PRECISIONS = ("auto", "fp32", "fp16", "bf16")
RESIZE_MODES = ("", "stretch", "letterbox")


class Backend(str, Enum):
    """What runs the network."""

    TORCH = "torch"
    """PyTorch, from a checkpoint."""
    AUTO = "auto"
    """OpenVINO on a CPU where a current export lies beside the checkpoint, else PyTorch."""
    ONNX = "onnx"
    """ONNX Runtime, from a folder that `segrgbx-export` wrote."""
    OPENVINO = "openvino"
    """OpenVINO on a CPU, from such a folder."""
    AOT = "aot"
    """AOTInductor on a CPU, from a folder that `segrgbx-export --aot` wrote."""

    @property
    def runs_exported(self) -> bool:
        """True where it takes an exported model's folder and no checkpoint."""
        return self not in (Backend.TORCH, Backend.AUTO)


class ConfidenceKind(str, Enum):
    """Meaning of a confidence, in [0, 1]; 1 is certain."""

    MAX_PROB = "max_prob"
    """Probability of the published class."""
    MARGIN = "margin"
    """Its lead over the probability of the next class."""
    ENTROPY = "entropy"
    """One minus the entropy of all classes, as a share of the largest possible entropy."""


class SceneConfig(Config):
    """When the scene of a stream is encoded anew; in between, its frames share one.

    Scenes are kept only for samples whose stream is named: the live node names them, replay and
    evaluation do not.
    """

    refresh_every: int = option(
        1,
        doc="frames of a live stream per scene; 1: every frame has its own, exact, as replay and "
        "evaluation always are; more is faster",
        low=1,
        high=1000,
    )
    max_age_ms: float = option(
        1000.0,
        doc="age by stamps of RGB at which a scene is stale, however few frames came since",
        unit="ms",
        low=0,
        high=60_000,
    )
    change: float = option(
        0.15,
        doc="mean change of a 32x32 thumbnail of RGB or X, as a share of full scale, at which a "
        "scene is stale at once; 1: never",
        low=0,
        high=1,
    )


class OnnxConfig(Config):
    """How ONNX Runtime runs an exported model."""

    provider: str = option(
        "auto",
        doc="execution provider: auto, cpu, cuda, tensorrt, openvino or rocm; auto takes cuda "
        "on a CUDA device where the installed ONNX Runtime has it, else cpu",
    )
    provider_options: str = option(
        "", doc="options of the provider as key=value, separated by commas: trt_fp16_enable=1"
    )

    @field_validator("provider")
    @classmethod
    def _known_provider(cls, value: str) -> str:
        if value not in PROVIDERS:
            raise ValueError(f"is not a provider{did_you_mean(value, PROVIDERS)}")
        return value

    @field_validator("provider_options")
    @classmethod
    def _pairs(cls, value: str) -> str:
        for item in filter(None, value.split(",")):
            if not re.fullmatch(r"\s*\w+\s*=[^=]*", item):
                raise ValueError(f"'{item}' is no key=value; write trt_fp16_enable=1")
        return value

    def pairs(self) -> dict[str, str]:
        """`provider_options` by key."""
        items = (item.partition("=") for item in filter(None, self.provider_options.split(",")))
        return {key.strip(): value.strip() for key, _, value in items}


class InferenceConfig(Config):
    """Where and how a checkpoint runs."""

    device: str = option(
        "auto", doc="auto, cpu, cuda or cuda:N; auto takes the first GPU or else the CPU"
    )
    precision: str = option(
        "auto",
        doc="auto, fp32, fp16 or bf16; auto is fp32 on a CPU, bf16 (or else fp16) on a GPU; an "
        "exported model has its own",
    )
    input_height: int = option(
        0, doc="height of the network input; 0: as trained", unit="px", low=0, high=4096
    )
    input_width: int = option(
        0, doc="width of the network input; 0: as trained", unit="px", low=0, high=4096
    )
    resize_mode: str = option("", doc="stretch or letterbox; empty: as trained")
    channels_last: bool = option(
        True, doc="keep feature maps in channels-last memory order, which most convolutions prefer"
    )
    threads: int = option(
        0,
        doc="threads of a pass on the CPU; 0: OMP_NUM_THREADS where it is set, else half of the "
        "processors, which leaves the others to messages",
        low=0,
        high=256,
    )
    keep_memory: bool = option(
        True,
        doc="let the process keep freed memory instead of giving it back to the system after each "
        "image and, on a CPU, every operator; faster, and its memory stays at its peak",
    )
    compile: bool = option(
        False,
        doc="compile the network with torch.compile, which needs a C++ compiler; takes a minute "
        "or more per batch size at start",
    )
    cuda_graph: bool = option(
        False,
        doc="replay the network as one CUDA graph per batch size, for GPUs that wait for CPUs",
    )
    backend: Backend = option(
        Backend.TORCH,
        doc="what runs the network; auto: OpenVINO on a CPU where `segrgbx-export CHECKPOINT` has "
        "put an export of this very checkpoint beside it, else torch; the log says which",
    )
    onnx: OnnxConfig = OnnxConfig()
    scene: SceneConfig = SceneConfig()

    @field_validator("device")
    @classmethod
    def _known_device(cls, value: str) -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
            raise ValueError("is not one of auto, cpu, cuda, cuda:N")
        return value

    @field_validator("precision")
    @classmethod
    def _known_precision(cls, value: str) -> str:
        if value not in PRECISIONS:
            raise ValueError(f"is not a precision{did_you_mean(value, PRECISIONS)}")
        return value

    @field_validator("resize_mode")
    @classmethod
    def _known_resize_mode(cls, value: str) -> str:
        if value not in RESIZE_MODES:
            raise ValueError(f"is not a resize mode{did_you_mean(value, RESIZE_MODES[1:])}")
        return value

    @field_validator("input_height", "input_width")
    @classmethod
    def _large_enough(cls, value: int) -> int:
        if 0 < value < 32:
            raise ValueError("is smaller than 32 px; use 0 for the trained size")
        return value
