"""Writes samples in the layouts of the public data sets: for fixtures, and for rendered worlds.

What a function here writes, the data set's reader reads back. Label files hold the data set's own
file values; a sample's `name` is the id that the reader gives it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segrgbx_core.base.errors import DataError
from segrgbx_core.base.images import write_image
from segrgbx_core.base.samples import Array
from segrgbx_core.labels.label_space import VOID
from segrgbx_core.labels.tables import DELIVER, MFNET, NYU, URBANLF, ZJU, NativeSpace
from segrgbx_core.sensors.polarization import ANGLES


@dataclass(frozen=True, eq=False)
class Frame:
    """One sample to write.

    Attributes:
        name: its id; for DeLiVER `<weather>/<scene>/<frame>`, for MFNet five digits and D or N.
        rgb: uint8 (H, W, 3).
        labels: uint8 (H, W), training ids of the data set, `VOID` where unlabelled.
        x: pictures of X by the name that each function states.
    """

    name: str
    rgb: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    x: Mapping[str, Array] = field(default_factory=dict)


_NO_CLASS = (255, 0, 255)
"""A colour that no palette has."""


class NyuLayout(str, Enum):
    """Re-packs of NYUDepthV2."""

    CMX = "cmx"
    DFORMER = "dformer"
    STITCHFUSION = "stitchfusion"
    TOKENFUSION = "tokenfusion"
    ESANET = "esanet"


class UrbanLfLayout(str, Enum):
    """Parts of UrbanLF and its re-pack."""

    REAL = "real"
    SYNTHETIC = "synthetic"
    REPACK = "repack"


def export_deliver(
    frames: Iterable[Frame], root: Path, split: str, has_alpha: bool = False
) -> list[str]:
    """DeLiVER's front view.

    Args:
        frames: x holds any of `event`, `hha`, `depth`, `lidar`.
        root: folder to write into.
        split: train, val or test.
        has_alpha: True adds an opaque fourth channel to RGB and labels, as parts of the data have.

    Returns:
        the samples' names.
    """
    names = []
    for frame in frames:
        weather, scene, number = frame.name.split("/")
        pictures = {"img": frame.rgb, **frame.x}
        values = file_values(frame.labels, DELIVER)
        # The id is in the first channel; the others are of no use to readers.
        pictures["semantic"] = np.stack([values, values * 0, values * 0], axis=2)
        for kind, picture in pictures.items():
            word = {"img": "rgb", "hha": "depth"}.get(kind, kind)
            folder = root / kind / weather / split / scene
            image = _opaque(picture) if has_alpha and kind in ("img", "semantic") else picture
            _write(folder / f"{number}_{word}_front.png", image)
        names.append(frame.name)
    return names


def export_mfnet(
    frames: Iterable[Frame],
    root: Path,
    split: str,
    in_folders: bool = False,
    flips: bool = False,
) -> list[str]:
    """MFNet.

    Args:
        frames: x holds `thermal`, uint8 (H, W) as large as RGB.
        root: folder to write into.
        split: train, val or test.
        in_folders: True writes `rgb/*.jpg` and `ther/*.jpg` instead of RGB with thermal as alpha.
        flips: True adds mirrored copies.

    Returns:
        the samples' names, as listed in `<split>.txt`.

    Raises:
        DataError: when labels hold void, which MFNet cannot store.
    """
    names = []
    for frame in frames:
        for name, step in ((frame.name, 1), (f"{frame.name}_flip", -1))[: 2 if flips else 1]:
            rgb, thermal = frame.rgb[:, ::step], frame.x["thermal"][:, ::step]
            if in_folders:
                _write(root / "rgb" / f"{name}.jpg", rgb)
                _write(root / "ther" / f"{name}.jpg", thermal)
            else:
                _write(root / "images" / f"{name}.png", np.dstack([rgb, thermal]))
            values = file_values(frame.labels[:, ::step], MFNET)
            _write(root / "labels" / f"{name}.png", values)
            names.append(name)
    _write_lines(root / f"{split}.txt", names)
    return names


def export_nyu(
    frames: Iterable[Frame],
    root: Path,
    split: str,
    layout: NyuLayout = NyuLayout.CMX,
    from_zero: bool = False,
) -> list[str]:
    """NYUDepthV2 as one of its re-packs.

    Args:
        frames: x holds `hha` (uint8, red disparity) or `depth` (uint16 in mm) by layout.
        root: folder to write into.
        split: train or test.
        layout: the re-pack.
        from_zero: True writes classes from 0 with void 255, instead of from 1 with void 0.

    Returns:
        the samples' names.
    """
    columns = {  # folders of RGB, labels, X, with the X that is written and the image formats
        NyuLayout.CMX: ("RGB", "Label", "HHA", "hha", ".jpg", ".jpg"),
        NyuLayout.DFORMER: ("RGB", "Label", "Depth", "depth", ".jpg", ".png"),
        NyuLayout.STITCHFUSION: ("RGB", "Labels", "HHA", "hha", ".jpg", ".png"),
        NyuLayout.TOKENFUSION: ("rgb", "masks", "depth", "depth", ".png", ".png"),
        NyuLayout.ESANET: ("rgb", "labels_40", "depth", "depth", ".png", ".png"),
    }
    rgb, label, x, kind, rgb_suffix, x_suffix = columns[layout]
    home = root / split if layout is NyuLayout.ESANET else root
    names = []
    for frame in frames:
        _write(home / rgb / f"{frame.name}{rgb_suffix}", frame.rgb)
        _write(home / x / f"{frame.name}{x_suffix}", frame.x[kind])
        offset, void = (0, VOID) if from_zero else (1, 0)
        write_indexed(
            home / label / f"{frame.name}.png", file_values(frame.labels, NYU, offset, void), NYU
        )
        names.append(frame.name)
    lines = names
    if layout is NyuLayout.DFORMER:
        lines = [f"RGB/{name}.jpg Label/{name}.png" for name in names]
    elif layout is NyuLayout.TOKENFUSION:
        lines = [f"rgb/{name}.png\tmasks/{name}.png\tdepth/{name}.png" for name in names]
    _write_lines(root / f"{split}.txt", lines)
    return names


def export_zju(frames: Iterable[Frame], root: Path, split: str, sign: str = "") -> list[str]:
    """ZJU RGB-P; RGB is not stored, it is the image at 0 degrees.

    Args:
        frames: x holds `angles`, uint8 (H, W, 4, 3) at 0, 45, 90, 135 degrees; or `aolp` alone
            for the second pack, which stores RGB too.
        root: folder to write into.
        split: train or val.
        sign: put behind the angle in file names, such as a degree sign.

    Returns:
        the samples' names.
    """
    names = []
    for frame in frames:
        home = root / split
        for index, angle in enumerate(ANGLES if "angles" in frame.x else ()):
            path = home / str(angle) / f"{frame.name}_{angle}{sign}.png"
            _write(path, frame.x["angles"][:, :, index])
        if "aolp" in frame.x:
            _write(home / f"{frame.name}_aolp.png", frame.x["aolp"])
            _write(home / f"{frame.name}_image0_0.png", frame.rgb)
        label = home / f"{split}_label" / f"{frame.name}.png"
        write_indexed(label, file_values(frame.labels, ZJU), ZJU)
        names.append(frame.name)
    return names


def export_urbanlf(
    frames: Iterable[Frame],
    root: Path,
    split: str,
    layout: UrbanLfLayout = UrbanLfLayout.REAL,
) -> list[str]:
    """UrbanLF.

    Args:
        frames: x holds views by name, such as `1_1`; the centre `5_5` is RGB.
        root: folder to write into.
        split: train, val or test.
        layout: real part (ids and colours), synthetic part (ids), or the re-pack (ids in PNGs).

    Returns:
        the samples' names.
    """
    names = []
    for frame in frames:
        views = {**frame.x, "5_5": frame.rgb}
        values = file_values(frame.labels, URBANLF)
        folder = root / split / frame.name
        for view, picture in views.items():
            is_repack = layout is UrbanLfLayout.REPACK
            packed = root / "View" / f"V{view.replace('_', '')}" / f"{frame.name}.png"
            _write(packed if is_repack else folder / f"{view}.png", picture)
        if layout is UrbanLfLayout.REAL:
            np.save(folder / "label.npy", values)
            colours = URBANLF.palette_array()
            colours[VOID] = _NO_CLASS  # black is a class here
            _write(folder / "label.png", colours[frame.labels])
        elif layout is UrbanLfLayout.SYNTHETIC:
            np.save(folder / "5_5_label.npy", values)
        else:
            _write(root / "Label" / f"{frame.name}.png", values)
        names.append(frame.name)
    if layout is UrbanLfLayout.REPACK:
        _write_lines(root / f"{split.capitalize()}_list.txt", names)
    return names


def file_values(
    labels: NDArray[np.uint8],
    space: NativeSpace,
    offset: int | None = None,
    void: int | None = None,
) -> NDArray[np.uint8]:
    """What a data set's label files hold for training ids.

    Args:
        labels: uint8 (H, W), `VOID` where unlabelled.
        space: the data set.
        offset: file value of training id 0; None for the data set's own.
        void: file value of void; None for the data set's first.

    Raises:
        DataError: for an id outside the table, or void where the data set cannot store it.
    """
    if void is None and space.void_file_values:
        void = space.void_file_values[0]
    table = np.full(256, -1, np.int16)
    first = space.file_offset if offset is None else offset
    table[: space.num_classes] = np.arange(space.num_classes) + first
    if void is not None:
        table[VOID] = void
    values = table[labels]
    if values.size and values.min() < 0:
        wrong = int(labels[values < 0][0])
        what = "void" if wrong == VOID else f"id {wrong}"
        raise DataError(f"'{space.name}' has no label file value for {what}")
    return values.astype(np.uint8)


def write_indexed(path: Path, values: NDArray[np.uint8], space: NativeSpace) -> None:
    """A label file as an indexed PNG: ids inside, colours on screen."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    black_first = np.roll(space.palette_array(), 1, axis=0)
    image.putpalette(black_first.tobytes())
    image.save(path)


def _opaque(picture: Array) -> Array:
    return np.dstack([picture, np.full(picture.shape[:2], 255, np.uint8)])


def _write(path: Path, image: Array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, np.ascontiguousarray(image), quality=95)


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
