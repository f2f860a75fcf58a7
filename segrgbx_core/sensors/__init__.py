"""Encoders: what a sensor delivers becomes the X image, float32 (h, w, 3) in [0, 1].

Every modality has one module with two entry points and one output type: `from_raw` for driver
data, `from_image` for pictures of data sets. `EncodingConfig` defines how physical values become
the X image; it is part of the checkpoint's contract, because inference must encode as training
did. `SensorConfig` describes the driver and is part of the robot's YAML. NumPy and OpenCV only;
the X image keeps the sensor's own resolution.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from pydantic import SerializerFunctionWrapHandler, field_validator, model_serializer

from segrgbx_core.base.config import Config, option
from segrgbx_core.base.errors import EncodingError
from segrgbx_core.base.modality import MODALITIES, Modality
from segrgbx_core.base.samples import Array, Events, RgbxSample, XForm
from segrgbx_core.sensors import added, depth, event, light_field, polarization, thermal
from segrgbx_core.sensors.added import PICTURE, AddedModality
from segrgbx_core.sensors.content import XContent, picture_content, rgb_content
from segrgbx_core.sensors.depth import DepthEncoding, DepthSensor
from segrgbx_core.sensors.event import EventEncoding, EventSensor
from segrgbx_core.sensors.light_field import LightFieldEncoding, LightFieldSensor
from segrgbx_core.sensors.picture import XImage
from segrgbx_core.sensors.polarization import (
    PolarizationEncoding,
    PolarizationRepresentation,
    PolarizationSensor,
)
from segrgbx_core.sensors.thermal import ThermalEncoding, ThermalSensor

__all__ = [
    "ENCODERS",
    "PICTURE",
    "AddedModality",
    "DepthEncoding",
    "DepthSensor",
    "Encoder",
    "EncodingConfig",
    "EventEncoding",
    "EventSensor",
    "LightFieldEncoding",
    "LightFieldSensor",
    "PolarizationEncoding",
    "PolarizationSensor",
    "SensorConfig",
    "ThermalEncoding",
    "ThermalSensor",
    "XContent",
    "XImage",
    "encode",
    "encoder_of",
    "flip_horizontally",
    "resamples_linearly",
    "rgb_content",
    "slot_of",
    "x_content",
]


class EncodingConfig(Config):
    """How physical values become the X image; part of the checkpoint's contract."""

    event: EventEncoding = option(EventEncoding(), doc="how events become the X image")
    thermal: ThermalEncoding = option(ThermalEncoding(), doc="how thermal becomes the X image")
    depth: DepthEncoding = option(DepthEncoding(), doc="how depth becomes the X image")
    polarization: PolarizationEncoding = option(
        PolarizationEncoding(), doc="how polarization becomes the X image"
    )
    light_field: LightFieldEncoding = option(
        LightFieldEncoding(), doc="how a light field becomes the X image"
    )
    added: dict[Modality, AddedModality] = option(
        {}, doc="modalities beyond the paper's five, by name"
    )

    @field_validator("added")
    @classmethod
    def _in_order(cls, value: dict[Modality, AddedModality]) -> dict[Modality, AddedModality]:
        """In the order of their slots, which follow those of the five without a gap."""
        ordered = dict(sorted(value.items(), key=lambda item: item[1].slot))
        if known := [name for name in ordered if not name.is_added]:
            raise ValueError(f"'{known[0]}' is one of the paper's five; choose another name")
        slots = [one.slot for one in ordered.values()]
        if slots != list(range(len(MODALITIES), len(MODALITIES) + len(slots))):
            raise ValueError(
                f"slots {slots} must be {len(MODALITIES)} and the next ones, each once"
            )
        return ordered

    @model_serializer(mode="wrap")
    def _without_none_added(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without `added` where there is none, so that earlier versions read it, too."""
        plain: dict[str, Any] = write(self)
        if not self.added:
            del plain["added"]
        return plain


class SensorConfig(Config):
    """Properties of the drivers; part of the robot's YAML."""

    event: EventSensor = option(EventSensor(), doc="facts about the event driver")
    thermal: ThermalSensor = option(ThermalSensor(), doc="facts about the thermal driver")
    depth: DepthSensor = option(DepthSensor(), doc="facts about the depth driver")
    polarization: PolarizationSensor = option(
        PolarizationSensor(), doc="facts about the polarization driver"
    )
    light_field: LightFieldSensor = option(
        LightFieldSensor(), doc="facts about the light-field driver"
    )


class Encoder(Protocol):
    """The interface of a modality's module.

    `encoding` and `sensor` are that modality's sections of `EncodingConfig` and `SensorConfig`.
    """

    @property
    def from_raw(self) -> Callable[..., XImage]:
        """X image of driver data; takes `(x, encoding, sensor)`."""

    def from_image(self, x: Array) -> XImage:
        """X image of a picture of a data set or renderer."""

    @property
    def content(self) -> Callable[..., XContent]:
        """Content of driver data; the arguments are those of `from_raw`."""


ENCODERS: dict[str, Encoder] = {
    Modality.EVENT: event,
    Modality.THERMAL: thermal,
    Modality.DEPTH: depth,
    Modality.POLARIZATION: polarization,
    Modality.LIGHT_FIELD: light_field,
}


def encode(
    sample: RgbxSample, encoding: EncodingConfig | None = None, sensor: SensorConfig | None = None
) -> XImage:
    """The X image of a sample.

    Events are cut at the sample's stamp; a stamp of 0 (a data set without stamps) means the
    newest event.

    Args:
        sample: RGB with X in sensor units or as a picture.
        encoding: the checkpoint's encoding; None for the defaults.
        sensor: facts about the drivers; None for the defaults.

    Returns:
        float32 (h, w, 3) in [0, 1], at the resolution of X.

    Raises:
        EncodingError: where X does not fit its modality, layout or form, or the encoding has no
            such modality.
    """
    name = encoder_of(sample.modality, encoding)
    if name == PICTURE:
        if sample.x_form is XForm.IMAGE:
            return added.from_image(_picture(sample), sample.modality)
        return added.from_raw(*_added_arguments(sample, encoding))
    if sample.x_form is XForm.IMAGE:
        return ENCODERS[name].from_image(_picture(sample))
    return ENCODERS[name].from_raw(*_arguments(sample, encoding, sensor))


def x_content(
    sample: RgbxSample, encoding: EncodingConfig | None = None, sensor: SensorConfig | None = None
) -> XContent:
    """Valid share, range and likely faults of a sample's X; arguments as of `encode`.

    Takes well below a millisecond. Pass X as received, before registration, which may already
    encode it. With `is_empty` the X image would be blank: treat X as missing; `problem` is the
    reason. With `problem` alone, X is usable but suspicious.

    Raises:
        EncodingError: as `encode`.
    """
    name = encoder_of(sample.modality, encoding)
    if sample.x_form is XForm.IMAGE:
        content = picture_content(_picture(sample), sample.modality.value)
    elif name == PICTURE:
        content = added.content(*_added_arguments(sample, encoding))
    else:
        content = ENCODERS[name].content(*_arguments(sample, encoding, sensor))
    # Events are sparse: few of their neighbours are related.
    is_judged = isinstance(sample.x, np.ndarray) and name != Modality.EVENT
    return content.judged(np.asarray(sample.x)) if is_judged else content


def encoder_of(modality: Modality, encoding: EncodingConfig | None = None) -> str:
    """Name of the encoder that draws a modality's X: that of one of the five, or `PICTURE`.

    Raises:
        EncodingError: for an added modality that the encoding does not have.
    """
    return _added(modality, encoding).encoder if modality.is_added else modality.value


def slot_of(modality: Modality, encoding: EncodingConfig | None = None) -> int:
    """The integer that stands for a modality in tensors: its adapter and its aligned prompts.

    Raises:
        EncodingError: as `encoder_of`.
    """
    return _added(modality, encoding).slot if modality.is_added else modality.index


def _added(modality: Modality, encoding: EncodingConfig | None) -> AddedModality:
    known = encoding.added if encoding else {}
    if modality not in known:
        names = ", ".join((*MODALITIES, *known))
        raise EncodingError(f"modality '{modality}' is none of {names}; check the pair's modality")
    return known[modality]


def _picture(sample: RgbxSample) -> Array:
    if not isinstance(sample.x, np.ndarray):
        raise EncodingError(
            f"{sample.modality} x: holds {type(sample.x).__name__} and x_form is image; "
            "set x_form to raw for event streams"
        )
    return sample.x


def _arguments(
    sample: RgbxSample, encoding: EncodingConfig | None, sensor: SensorConfig | None
) -> tuple[Any, ...]:
    """X with the encoder's sections, and for events the end of the window."""
    section = encoder_of(sample.modality, encoding)
    sections = (
        getattr(encoding or EncodingConfig(), section),
        getattr(sensor or SensorConfig(), section),
    )
    if isinstance(sample.x, Events) and section == Modality.EVENT:
        return (sample.x, *sections, sample.stamp_ns or None)
    return (sample.x, *sections)


def _added_arguments(
    sample: RgbxSample, encoding: EncodingConfig | None
) -> tuple[Any, AddedModality, str]:
    return sample.x, _added(sample.modality, encoding), sample.modality.value


def flip_horizontally(x_image: XImage, modality: Modality, encoding: EncodingConfig) -> XImage:
    """The X image of the mirrored scene: pixels change sides, polarization angles change sign."""
    if encoder_of(modality, encoding) == Modality.POLARIZATION:
        return polarization.flip_horizontally(x_image, encoding.polarization.representation)
    return x_image[:, ::-1].copy()


def resamples_linearly(modality: Modality, encoding: EncodingConfig | None = None) -> bool:
    """False where mixing neighbours of an X image would invent values.

    The angle of polarization is circular: between its ends, which are one angle, lies every other.

    Args:
        modality: of X.
        encoding: what X's channels mean; None for the defaults.
    """
    if modality.is_added:
        return _added(modality, encoding).interpolates
    if modality is Modality.POLARIZATION and encoding is not None:
        return encoding.polarization.representation is not PolarizationRepresentation.AOLP
    return modality.facts.resamples_linearly
