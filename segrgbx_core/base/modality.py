"""Modalities by name: the paper's five with their properties, and any that a checkpoint adds."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import GetCoreSchemaHandler
from pydantic_core import core_schema

_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")


class Modality(str):
    """A complementary sensor (X) by its name in YAML, topics, checkpoints and reports.

    One object per name, so that `is` compares. What an added one's images are, and which of the
    checkpoint's adapters and prompts it has, is in the contract: `EncodingConfig.added`.

    Raises:
        ValueError: for what cannot be part of a topic's name.
    """

    EVENT: ClassVar[Modality]
    THERMAL: ClassVar[Modality]
    DEPTH: ClassVar[Modality]
    POLARIZATION: ClassVar[Modality]
    LIGHT_FIELD: ClassVar[Modality]
    _known: ClassVar[dict[str, Modality]] = {}

    def __new__(cls, name: str) -> Modality:
        """The one object of that name."""
        known = cls._known.get(name)
        if known is None:
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise ValueError(
                    "is no name of a modality: a lowercase letter, then lowercase letters, digits "
                    "and _, at most 32 in all"
                )
            known = cls._known[name] = super().__new__(cls, name)
        return known

    def __str__(self) -> str:
        return str.__str__(self)

    def __reduce__(self) -> tuple[type[Modality], tuple[str]]:
        return Modality, (self.value,)

    @property
    def value(self) -> str:
        """The name as a plain string."""
        return str.__str__(self)

    @property
    def index(self) -> int:  # type: ignore[override]  # hides str.index on purpose
        """Position in `MODALITIES`; `sensors.slot_of` covers added ones, too.

        Raises:
            ValueError: for a modality that is none of the five.
        """
        return MODALITIES.index(self)

    @property
    def is_added(self) -> bool:
        """False for the paper's five."""
        return self not in _FACTS

    @property
    def facts(self) -> ModalityFacts:
        """Properties of this modality's X image for resampling and display.

        Those of an added modality are in its checkpoint; here it has what holds for any picture.
        """
        words = self.replace("_", " ")
        return _FACTS.get(self) or ModalityFacts(words[:2].upper(), words.capitalize())

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        """A string that is a name; written as a plain string."""
        return core_schema.no_info_after_validator_function(
            cls,
            core_schema.str_schema(),
            serialization=core_schema.plain_serializer_function_ser_schema(str.__str__),
        )


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
    resamples_linearly: bool = True
    is_colour: bool = True
    reveals: tuple[str, ...] = ()


MODALITIES: tuple[Modality, ...] = tuple(
    map(Modality, ("event", "thermal", "depth", "polarization", "light_field"))
)
"""The paper's five, in the order of their adapters and prompts in every checkpoint."""
(
    Modality.EVENT,
    Modality.THERMAL,
    Modality.DEPTH,
    Modality.POLARIZATION,
    Modality.LIGHT_FIELD,
) = MODALITIES

_FACTS: dict[str, ModalityFacts] = {
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
