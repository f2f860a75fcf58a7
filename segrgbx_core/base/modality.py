"""The five complementary modalities and their properties."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Modality(str, Enum):
    """A complementary sensor (X); its value is its name in YAML, topics, checkpoints, reports."""

    EVENT = "event"
    THERMAL = "thermal"
    DEPTH = "depth"
    POLARIZATION = "polarization"
    LIGHT_FIELD = "light_field"

    def __str__(self) -> str:
        return self.value

    @property
    def index(self) -> int:  # type: ignore[override]  # hides str.index on purpose
        """Position in `MODALITIES`: the integer that stands for this modality in tensors."""
        return MODALITIES.index(self)

    @property
    def facts(self) -> ModalityFacts:
        """Properties of this modality's X image for resampling and display."""
        return _FACTS[self]


@dataclass(frozen=True)
class ModalityFacts:
    """Properties of a modality's X image.

    Attributes:
        letter: the paper's abbreviation (Table I).
        title: for captions.
        resamples_linearly: False where interpolation would invent values (event pictures);
            `sensors.resamples_linearly` also takes the encoding into account.
        is_colour: True where the three channels are shown as a colour image.
        reveals: unified classes that the sensor shows better than RGB, by its physics; scores on
            synthetic scenes are also given for these alone.
    """

    letter: str
    title: str
    resamples_linearly: bool
    is_colour: bool
    reveals: tuple[str, ...]


MODALITIES: tuple[Modality, ...] = tuple(Modality)

_FACTS = {
    Modality.EVENT: ModalityFacts(
        "E",
        "Event",
        resamples_linearly=False,
        is_colour=True,
        reveals=("person", "bike", "car"),  # what moves
    ),
    Modality.THERMAL: ModalityFacts(
        "T",
        "Thermal",
        resamples_linearly=True,
        is_colour=False,
        reveals=("person", "glass"),  # warm bodies; glass is opaque in the far infrared
    ),
    Modality.DEPTH: ModalityFacts(
        "D",
        "Depth",
        resamples_linearly=True,
        is_colour=False,
        reveals=("person", "car", "pole"),  # what stands out from the ground
    ),
    Modality.POLARIZATION: ModalityFacts(
        "P",
        "Polarization",
        resamples_linearly=True,
        is_colour=True,
        reveals=("water", "glass"),  # smooth dielectrics
    ),
    Modality.LIGHT_FIELD: ModalityFacts(
        "LF",
        "Light field",
        resamples_linearly=True,
        is_colour=True,
        reveals=("person", "car", "pole"),  # parallax, as for depth
    ),
}
