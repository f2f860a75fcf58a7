"""ZJU RGB-P: streets behind four polarizers.

Layout: `<split>/{0,45,90,135}/<stem>_<angle>.png` and `<split>/<split>_label/<stem>.png`; some
copies write the angle with a degree sign. A second pack holds `<n>_aolp.png` beside
`<n>_image0_0.png`, the angle of polarization already drawn.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from segrgbx_core.base.config import Config, option
from segrgbx_core.base.errors import DataError
from segrgbx_core.base.modality import Modality
from segrgbx_core.base.samples import Array, XForm
from segrgbx_core.labels.tables import ZJU
from segrgbx_core.sensors import PolarizationSensor, SensorConfig
from segrgbx_core.sensors.polarization import ANGLES, PolarizationLayout
from training.data.datasets.file_reader import (
    FileReader,
    Folder,
    Found,
    Listing,
    SampleFiles,
    folder_names,
    read_rgb,
)
from training.data.datasets.label_files import IdFiles, Labels


class ZjuX(str, Enum):
    """What serves as X."""

    AUTO = "auto"
    """The four angles where they are, else the drawn angle of polarization."""
    ANGLES = "angles"
    AOLP = "aolp"


class ZjuRgb(str, Enum):
    """What serves as RGB."""

    ANGLE_0 = "angle_0"
    """The image behind the polarizer at 0 degrees, as most published models use it."""
    MEAN = "mean"
    """The mean of the four: the scene without a polarizer, at half the light."""


class ZjuOptions(Config):
    """What to read of ZJU RGB-P."""

    x: ZjuX = option(ZjuX.AUTO, doc="what serves as X: the four angles, or a drawn aolp")
    rgb: ZjuRgb = option(ZjuRgb.ANGLE_0, doc="what serves as RGB: angle_0 or mean")
    half_resolution: bool = option(
        False,
        doc="read at half size (612x512), as published models do; intensities are averaged",
    )


COUNTS = {"train": 344, "val": 50}
"""Published samples per split; there is no test."""

_NAME = re.compile(r"(?P<stem>.+)_(?P<angle>0|45|90|135)\D?\.png", re.IGNORECASE)
"""One sign that is no digit may follow the angle: archives spell the degree sign in many ways."""


class ZjuReader(FileReader):
    """One split of ZJU RGB-P.

    X is the stack of the four images, (H, W, 4, 3) at 0, 45, 90, 135 degrees: the encoder makes
    degree and angle of polarization from intensities, never from resized angles. It needs
    `sensor.polarization.layout: channels4`.

    Args:
        root: folder that holds train and val.
        split: train or val.
        modality: polarization.
        options: what to read.
    """

    space = ZJU
    options = ZjuOptions
    splits = tuple(COUNTS)
    modalities = (Modality.POLARIZATION,)
    sensor = SensorConfig(
        polarization=PolarizationSensor(layout=PolarizationLayout.CHANNELS4, full_scale=255)
    )

    def _find(self, root: Path, split: str, options: ZjuOptions) -> Found:
        self._options = options
        home = root / split
        has_angles = bool({str(angle) for angle in ANGLES} & folder_names(home))
        self._is_drawn = options.x is ZjuX.AOLP or (options.x is ZjuX.AUTO and not has_angles)
        note = "X is drawn AoLP: set encoding.polarization.representation to aolp for live images"
        return Found(
            _list_drawn(home) if self._is_drawn else _list_angles(home, split),
            IdFiles(ZJU),
            layout="drawn AoLP" if self._is_drawn else "four angles",
            x="*_aolp.png" if self._is_drawn else "folders 0, 45, 90, 135",
            published=COUNTS[split],
            notes=(note,) if self._is_drawn else (),
        )

    def _images(self, files: SampleFiles) -> tuple[NDArray[np.uint8], Array, XForm]:
        if self._is_drawn:
            return read_rgb(files.rgb), read_rgb(files.x[0]), XForm.IMAGE
        planes = [read_rgb(path) for path in files.x]
        for path, plane in zip(files.x, planes, strict=True):
            if plane.shape != planes[0].shape:
                raise DataError(f"{path}: is not as large as {files.x[0].name}")
        if self._options.half_resolution:
            # At exactly half the size, area averaging is the mean of 2 x 2 pixels.
            size = (planes[0].shape[1] // 2, planes[0].shape[0] // 2)
            planes = [_halved(plane, size) for plane in planes]
        # In memory one image after the other, so that the encoder walks through each without gaps.
        stack = np.stack(planes).transpose(1, 2, 0, 3)
        rgb = planes[0]
        if self._options.rgb is ZjuRgb.MEAN:
            total = stack.sum(axis=2, dtype=np.uint16)
            rgb = ((total + 2) // 4).astype(np.uint8)
        return rgb, stack, XForm.RAW

    def _label_map(self, path: Path) -> Labels:
        labels = super()._label_map(path)
        if self._options.half_resolution and not self._is_drawn:
            height, width = (size // 2 for size in labels.shape)
            return np.ascontiguousarray(labels[: 2 * height : 2, : 2 * width : 2])
        return labels


def _halved(plane: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    even = plane[: size[1] * 2, : size[0] * 2]
    return np.asarray(cv2.resize(even, size, interpolation=cv2.INTER_AREA), np.uint8)


def angle_of(name: str) -> tuple[str, int] | None:
    """Stem and polarizer angle in degrees that a file name states; None where it states none."""
    match = _NAME.fullmatch(name)
    return (match["stem"], int(match["angle"])) if match else None


def _list_angles(home: Path, split: str) -> Listing:
    listing = Listing()
    found: dict[int, dict[str, Path]] = {angle: {} for angle in ANGLES}
    for angle in ANGLES:
        folder = home / str(angle)
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            stated = angle_of(path.name)
            if stated is None:
                listing.warnings.append(f"{path.name} in folder {angle} states no angle; left out")
            elif stated[1] != angle:
                raise DataError(
                    f"{path}: states {stated[1]} degrees but lies in folder {angle}; "
                    "a mix-up of angles turns the polarization"
                )
            else:
                found[angle][stated[0]] = path
    labels = Folder(home / f"{split}_label")
    for stem in sorted(set().union(*found.values())):
        paths = tuple(
            found[angle].get(stem) or home / str(angle) / f"{stem}_{angle}.png" for angle in ANGLES
        )
        listing.files.append(SampleFiles(stem, paths[0], paths, labels.find(stem)))
    return listing


def _list_drawn(home: Path) -> Listing:
    listing = Listing()
    labels = [Folder(path) for path in _label_folders(home)] or [Folder(home / "label")]
    ends = ("_aolp.png", "_image0_0.png")
    stems = {
        (path.parent, path.name.removesuffix(end))
        for end in ends
        for path in home.rglob(f"*{end}")
    }
    for folder, stem in sorted(stems):
        tries = [file.find(name) for file in labels for name in (stem, f"{stem}_image0")]
        label = next((path for path in tries if path.exists()), tries[0])
        aolp, rgb = (folder / f"{stem}{end}" for end in ends)
        listing.files.append(SampleFiles(stem, rgb, (aolp,), label))
    return listing


def _label_folders(home: Path) -> Iterator[Path]:
    for path in sorted(home.rglob("*")):
        if path.is_dir() and "label" in path.name.lower():
            yield path
