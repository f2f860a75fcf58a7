"""Which figures a data set is known by, all of them from one confusion matrix.

Papers average differently over the same data; a difference of a class or of the rule for absent
classes moves a mean by points. Every report prints all readings, each by name. docs/data.md says
who uses which.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from segrgbx_core.base.tables import rounded
from segrgbx_core.labels.label_space import UNIFIED, LabelSpace
from segrgbx_core.labels.metrics import AbsentClass, ConfusionMatrix
from segrgbx_core.labels.tables import DELIVER, MFNET, NYU, URBANLF, ZJU, NativeSpace
from training.data.datasets import deliver, mfnet, nyu, urbanlf, zju_rgbp
from training.data.datasets.deliver import Case, Weather
from training.data.datasets.mfnet import Time
from training.data.datasets.urbanlf import Part


@dataclass(frozen=True)
class Reading:
    """One way to average the IoU of classes.

    Attributes:
        key: its name in JSON.
        title: what is averaged, in words.
        classes: ids that are averaged.
        zeros: classes that the published mean counts besides and that can only have IoU 0.
        removed: ids whose pixels, in truth or answer, are left out before anything is counted.
    """

    key: str
    title: str
    classes: tuple[int, ...]
    zeros: int = 0
    removed: tuple[int, ...] = ()

    def value(self, matrix: ConfusionMatrix, absent: AbsentClass = AbsentClass.SKIP) -> float:
        """The mean in [0, 1]; NaN when no class is left to average.

        Args:
            matrix: of the data set's own classes.
            absent: what classes count that are in neither truth nor answer.
        """
        if self.removed:
            kept = ConfusionMatrix(matrix.num_classes)
            kept.matrix[:] = matrix.matrix
            kept.matrix[list(self.removed)] = 0
            kept.matrix[:, list(self.removed)] = 0
            matrix = kept
        values = matrix.iou()[list(self.classes)]
        if absent is AbsentClass.ZERO:
            values = np.nan_to_num(values, nan=0.0)
        values = values[~np.isnan(values)]
        count = values.size + (self.zeros if values.size else 0)
        return float(values.sum() / count) if count else float("nan")


@dataclass(frozen=True)
class Protocol:
    """How results on a data set are reported.

    Attributes:
        readings: of the mean, the one that we report first at the front.
        split: what published figures are usually for.
        counts: published samples by split.
        sections: titles of groups of samples, each with the groups in their order.
        parts: groups that are also reported by the plain mean of their means.
        note: what to know before comparing.
    """

    readings: tuple[Reading, ...]
    split: str = "val"
    counts: Mapping[str, int] = field(default_factory=dict)
    sections: tuple[tuple[str, tuple[str, ...]], ...] = ()
    parts: tuple[str, ...] = ()
    note: str = ""

    @property
    def primary(self) -> Reading:
        """The reading that stands for the data set where one number is wanted."""
        return self.readings[0]

    @property
    def alternative(self) -> Reading:
        """The other published reading; the primary one where there is no other."""
        return self.readings[1] if len(self.readings) > 1 else self.readings[0]

    def values(self, matrix: ConfusionMatrix) -> dict[str, dict[str, float | None]]:
        """Every reading under both rules for absent classes, by key; None where undefined."""
        return {
            one.key: {absent.value: rounded(one.value(matrix, absent)) for absent in AbsentClass}
            for one in self.readings
        }

    def ordered(self, groups: Mapping[str, Any]) -> dict[str, list[str]]:
        """The names of groups by section; those of no section come last."""
        sections = {
            title: [name for name in names if name in groups] for title, names in self.sections
        }
        known = {name for names in sections.values() for name in names}
        sections["group"] = sorted(name for name in groups if name not in known)
        return {title: names for title, names in sections.items() if names}


def _all(space: NativeSpace, key: str = "miou") -> Reading:
    title = f"mean over {space.num_classes} classes"
    return Reading(key, title, tuple(range(space.num_classes)))


_OBJECTS = tuple(range(1, MFNET.num_classes))

PROTOCOLS: dict[str, Protocol] = {
    DELIVER.name: Protocol(
        readings=(_all(DELIVER),),
        counts={split: sum(weathers.values()) for split, weathers in deliver.COUNTS.items()},
        sections=(
            ("weather", tuple(weather.value for weather in Weather)),
            ("sensor failure", tuple(case.value for case in Case)),
        ),
        note="Published figures are mostly on val; test comes out several points lower.",
    ),
    MFNET.name: Protocol(
        readings=(
            Reading("miou_9", "mean over 9 classes, unlabeled among them", (0, *_OBJECTS)),
            Reading("miou_8", "mean over the 8 classes besides unlabeled", _OBJECTS),
            Reading(
                "miou_mfnet_script",
                "as MFNet's own script: pixels of unlabeled removed, divided by 9",
                _OBJECTS,
                zeros=1,
                removed=(0,),
            ),
        ),
        split="test",
        counts=mfnet.COUNTS,
        sections=(("time of day", (Time.DAY.value, Time.NIGHT.value)),),
        note="Papers use 9 classes or 8; that is worth about five points.",
    ),
    NYU.name: Protocol(
        readings=(_all(NYU),),
        split="test",
        counts=nyu.COUNTS,
        note="There is no val split; models are chosen on test.",
    ),
    ZJU.name: Protocol(
        readings=(
            _all(ZJU, "miou_8"),
            Reading(
                "miou_9",
                "8 classes and background, which counts IoU 0",
                tuple(range(ZJU.num_classes)),
                zeros=1,
            ),
        ),
        counts=zju_rgbp.COUNTS,
        note="The paper's figures of other models fit their published ones times 8/9.",
    ),
    URBANLF.name: Protocol(
        readings=(_all(URBANLF),),
        counts={
            split: sum(counts[split] for counts in urbanlf.COUNTS.values())
            for split in urbanlf.UrbanLfReader.splits
        },
        sections=(("part", (Part.REAL.value, Part.SYNTHETIC.value)),),
        parts=(Part.REAL.value, Part.SYNTHETIC.value),
        note="Published figures are for the real and the synthetic part apart; the paper gives "
        "one number without saying how they are joined.",
    ),
}
"""By the name of the data set's label space."""


def protocol_of(space: LabelSpace, scored: str, native: str) -> Protocol:
    """The protocol for scores in a label space.

    Args:
        space: the checkpoint's.
        scored: what answers are chosen from: a data set's classes, or `UNIFIED`.
        native: the data set.

    Returns:
        the data set's; the plain mean over its classes where it has none of its own.
    """
    own = space.native(native)
    known = PROTOCOLS.get(native, Protocol(readings=(_all(own),)))
    if scored != UNIFIED:
        return known
    readings = (
        Reading("miou", "mean over all unified classes", tuple(range(space.num_classes))),
        Reading("miou_own", f"mean over the classes of {native}", own.to_unified),
    )
    return replace(known, readings=readings, note="")
