"""Inputs and outputs of the model: sensor samples and predictions.

Arrays are H x W x C, colours are RGB, stamps are integer nanoseconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segrgbx_core.base.errors import EncodingError
from segrgbx_core.base.modality import Modality

Array = NDArray[Any]

NS_PER_MS = 1_000_000


class XForm(str, Enum):
    """Whether X is sensor data or a picture."""

    RAW = "raw"
    """What a driver publishes: counts, millimetres, mosaics, event streams."""
    IMAGE = "image"
    """What a data set or renderer has already drawn as an 8-bit picture."""


@dataclass(frozen=True, eq=False)
class Events:
    """A slice of an event stream, sorted by time.

    Attributes:
        x: column of each event, uint16 (N,), 0 at the left.
        y: row of each event, uint16 (N,), 0 at the top.
        t_ns: time of each event in ns, int64 (N,), not decreasing.
        p: polarity, uint8 (N,): 1 brighter (ON), 0 darker (OFF).
        width: sensor width in pixels.
        height: sensor height in pixels.
    """

    x: NDArray[np.uint16]
    y: NDArray[np.uint16]
    t_ns: NDArray[np.int64]
    p: NDArray[np.uint8]
    width: int
    height: int

    def __post_init__(self) -> None:
        lengths = {len(self.x), len(self.y), len(self.t_ns), len(self.p)}
        if len(lengths) != 1:
            raise EncodingError(f"events: x, y, t_ns, p have different lengths {sorted(lengths)}")
        if self.width <= 0 or self.height <= 0:
            raise EncodingError(f"events: sensor size {self.width}x{self.height} is empty")

    def __len__(self) -> int:
        return len(self.t_ns)


@dataclass(frozen=True, eq=False)
class RgbxSample:
    """One RGB image with the X sample that belongs to it, X still in sensor units.

    Attributes:
        rgb: uint8 (H, W, 3), RGB order.
        x: what the modality's encoder accepts (see `segrgbx_core.sensors`); its resolution may
            differ from RGB's.
        modality: of X; selects encoder and prompts.
        stamp_ns: acquisition time of RGB in ns; copied to the prediction.
        frame_id: RGB's optical frame; copied to the prediction.
        x_form: whether `x` is sensor data or a picture.
    """

    rgb: NDArray[np.uint8]
    x: Array | Events
    modality: Modality
    stamp_ns: int = 0
    frame_id: str = ""
    x_form: XForm = XForm.RAW

    def __post_init__(self) -> None:
        if self.rgb.ndim != 3 or self.rgb.shape[2] != 3 or self.rgb.dtype != np.uint8:
            raise EncodingError(
                f"rgb: shape {self.rgb.shape} of {self.rgb.dtype}; expected (H, W, 3) of uint8"
            )
        if self.rgb.size == 0:
            raise EncodingError(f"rgb: size {self.rgb.shape[1]}x{self.rgb.shape[0]} is empty")


@dataclass(frozen=True, eq=False)
class Prediction:
    """The model's output for one `RgbxSample`, on the grid of its RGB image by default.

    Attributes:
        labels: uint8 (H, W), ids of the requested label space; 255 is void.
        confidence: uint8 (H, W), round(255 * confidence), as a rule the published class's
            probability.
        x_image: float32 (h, w, 3) in [0, 1], X exactly as the model saw it.
        modality: modality of the sample.
        stamp_ns: stamp of the sample's RGB image in ns.
        frame_id: frame of the sample's RGB image.
        timings_ms: duration of each stage (`encode`, `input`, `scene`, `model`, `decode`) in ms,
            shared by a batch.
        scene_age: frames of the stream since the scene embedding was computed; 0 where it was
            computed for this sample.
        scores: what `Segmenter.fuse` needs of it, where it was asked for.
    """

    labels: NDArray[np.uint8]
    confidence: NDArray[np.uint8]
    x_image: NDArray[np.float32]
    modality: Modality
    stamp_ns: int
    frame_id: str
    timings_ms: dict[str, float] = field(default_factory=dict)
    scene_age: int = 0
    scores: Any = None
