"""DeLiVER: rendered streets in five weathers and five sensor failures, with four kinds of X.

Front view as published: `<kind>/<weather>/<split>/<scene>/<frame>_<word>_front.png`. Frame numbers
repeat between scenes, so a sample's identity keeps weather and scene.
"""

from __future__ import annotations

from enum import Enum
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segrgbx_core.base.config import Config, option
from segrgbx_core.base.errors import ConfigError, DataError
from segrgbx_core.base.modality import Modality
from segrgbx_core.base.samples import Array, XForm
from segrgbx_core.labels.tables import DELIVER
from training.data.datasets.file_reader import (
    FileReader,
    Found,
    Listing,
    SampleFiles,
    folder_names,
    read_rgb,
)
from training.data.datasets.label_files import IdFiles


class DeliverX(str, Enum):
    """Which folder serves as X."""

    AUTO = "auto"
    """The event picture for events, HHA for depth."""
    EVENT = "event"
    HHA = "hha"
    DEPTH = "depth"
    LIDAR = "lidar"


class Weather(str, Enum):
    """First folder below a kind."""

    CLOUD = "cloud"
    FOG = "fog"
    NIGHT = "night"
    RAIN = "rain"
    SUN = "sun"


class Case(str, Enum):
    """How a sensor fails; named in the scene's folder."""

    NORMAL = "normal"
    MOTION_BLUR = "motionblur"
    OVER_EXPOSURE = "overexposure"
    UNDER_EXPOSURE = "underexposure"
    LIDAR_JITTER = "lidarjitter"
    EVENT_LOW_RESOLUTION = "eventlowres"


class DeliverOptions(Config):
    """Which part of DeLiVER, and what serves as X."""

    x: DeliverX = option(DeliverX.AUTO, doc="folder that serves as X: event, hha, depth or lidar")
    weather: tuple[Weather, ...] = option((), doc="weathers to keep; empty for all")
    case: tuple[Case, ...] = option((), doc="sensor failures to keep; empty for all")


COUNTS = {
    "train": {"cloud": 794, "fog": 795, "night": 797, "rain": 799, "sun": 798},
    "val": {"cloud": 398, "fog": 400, "night": 410, "rain": 398, "sun": 399},
    "test": {"cloud": 379, "fog": 379, "night": 379, "rain": 380, "sun": 380},
}
"""Published samples per split and weather."""
NORMAL_COUNTS = {"train": 2585, "val": 1298, "test": 1198}
"""Published samples per split without a sensor failure."""

_KINDS = {
    DeliverX.EVENT: (Modality.EVENT, "event", "event"),
    DeliverX.HHA: (Modality.DEPTH, "hha", "depth"),  # files below hha/ keep the word depth
    DeliverX.DEPTH: (Modality.DEPTH, "depth", "depth"),
    DeliverX.LIDAR: (Modality.DEPTH, "lidar", "lidar"),
}
_NOTES = {
    DeliverX.EVENT: "X is a drawn picture: encoding.event picture on white is its live equivalent",
    DeliverX.HHA: "X is drawn HHA: set encoding.depth.representation to hha for live depth",
    DeliverX.DEPTH: "X is a drawn depth picture of unknown scale; live depth will look different",
    DeliverX.LIDAR: "X is a drawn lidar picture, mostly empty; no live encoder draws it",
}


class DeliverReader(FileReader):
    """One split of DeLiVER; groups are weather and sensor failure.

    Args:
        root: folder that holds `img`, `semantic` and the folders of X.
        split: train, val or test.
        modality: event or depth.
        options: selection.
    """

    space = DELIVER
    options = DeliverOptions
    splits = tuple(COUNTS)
    sequence_mark = "/"  # an id ends in the frame's number, see `training.data.embeddings`
    modalities = (Modality.EVENT, Modality.DEPTH)

    def _find(self, root: Path, split: str, options: DeliverOptions) -> Found:
        kind = _kind(options.x, self.modality)
        return Found(
            _list(root, split, kind, options),
            IdFiles(DELIVER),
            layout="front view",
            x=f"pictures in {_KINDS[kind][1]}/",
            published=_published(split, options),
            notes=(_NOTES[kind],),
        )

    def _images(self, files: SampleFiles) -> tuple[NDArray[np.uint8], Array, XForm]:
        return read_rgb(files.rgb), read_rgb(files.x[0]), XForm.IMAGE


def _kind(x: DeliverX, modality: Modality) -> DeliverX:
    if x is DeliverX.AUTO:
        return DeliverX.EVENT if modality is Modality.EVENT else DeliverX.HHA
    if _KINDS[x][0] is not modality:
        raise ConfigError(f"deliver: x {x.value} is {_KINDS[x][0]}, not {modality}; change one")
    return x


def _list(root: Path, split: str, kind: DeliverX, options: DeliverOptions) -> Listing:
    listing = Listing()
    if not (root / "img").is_dir():
        raise DataError(f"{root / 'img'}: is missing; expected DeLiVER's folder of RGB images")
    present = folder_names(root / "img")
    _, folder, word = _KINDS[kind]
    for weather in options.weather or tuple(Weather):
        if weather.value not in present:
            listing.warnings.append(f"folder img/{weather.value} is missing")
            continue
        within = Path(weather.value) / split
        # Labels are looked for too, so that an image that did not arrive is missed.
        shots = _shots(root / "img" / within, "rgb") | _shots(
            root / "semantic" / within, "semantic"
        )
        for scene, frame, rest in sorted(shots):
            cases = scene_cases(scene, frame)
            if not options.case or set(cases) & set(options.case):
                listing.files.append(
                    SampleFiles(
                        id=f"{weather.value}/{scene}/{frame}",
                        rgb=root / "img" / within / scene / f"{frame}_rgb{rest}",
                        x=(root / folder / within / scene / f"{frame}_{word}{rest}",),
                        label=root / "semantic" / within / scene / f"{frame}_semantic{rest}",
                        groups=(weather.value, *(case.value for case in cases)),
                    )
                )
    return listing


def _shots(folder: Path, word: str) -> set[tuple[str, str, str]]:
    """Scene, frame and what follows the word, of all files below a folder."""
    # Names are split; text replaced in a whole path would change its parents, too.
    shots = set()
    for path in folder.glob("*/*.png"):
        frame, found, rest = path.name.rpartition(f"_{word}")
        if not found:
            raise DataError(f"{path}: expected a name such as 045050_{word}_front.png")
        shots.add((path.parent.name, frame, rest))
    return shots


def scene_cases(*names: str) -> tuple[Case, ...]:
    """The sensor failures that the names of a scene or file state as a word of their own."""
    words: set[str] = set()
    for name in names:
        parts = name.lower().replace("-", "_").split("_")
        # Joined neighbours too, so that motion_blur is motionblur.
        words.update("".join(parts[a:b]) for a, b in combinations(range(len(parts) + 1), 2))
    cases = tuple(case for case in Case if case is not Case.NORMAL and case.value in words)
    return cases or (Case.NORMAL,)


def _published(split: str, options: DeliverOptions) -> int | None:
    weathers = options.weather or tuple(Weather)
    if not options.case:
        return sum(COUNTS[split][weather.value] for weather in set(weathers))
    if set(weathers) != set(Weather):
        return None
    total, normal = sum(COUNTS[split].values()), NORMAL_COUNTS[split]
    failures = set(Case) - {Case.NORMAL}
    return {
        frozenset({Case.NORMAL}): normal,
        frozenset(failures): total - normal,
        frozenset(Case): total,
    }.get(frozenset(options.case))
