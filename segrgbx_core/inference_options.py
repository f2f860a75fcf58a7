"""How a checkpoint runs, as options; free of torch, for the configs of node and replay."""

from __future__ import annotations

import re

from pydantic import field_validator

from segrgbx_core.config import Config, option
from segrgbx_core.errors import did_you_mean

PRECISIONS = ("auto", "fp32", "fp16", "bf16")
RESIZE_MODES = ("", "stretch", "letterbox")


class InferenceConfig(Config):
    """Where and how a checkpoint runs."""

    device: str = option(
        "auto", doc="auto, cpu, cuda or cuda:N; auto takes the first GPU or else the CPU"
    )
    precision: str = option(
        "auto",
        doc="auto, fp32, fp16 or bf16; auto is fp32 on a CPU, bf16 (or else fp16) on a GPU",
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
