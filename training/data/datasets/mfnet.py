"""MFNet: streets by day and night, RGB with thermal.

Original layout: `images/<name>.png` with thermal in the alpha channel, `labels/<name>.png`, lists
`train.txt`, `val.txt`, `test.txt`. Names are five digits and D (day) or N (night); `_flip` marks
mirrored copies that a script of the data set writes. Re-packs keep RGB and thermal in two folders.
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segrgbx_core.base.config import Config, option
from segrgbx_core.base.errors import DataError
from segrgbx_core.base.images import read_image
from segrgbx_core.base.modality import Modality
from segrgbx_core.base.samples import Array, XForm
from segrgbx_core.labels.tables import MFNET
from training.data.datasets.file_reader import (
    FileReader,
    Folder,
    Found,
    Listing,
    SampleFiles,
    first_present,
    folder_names,
    listed_stems,
    read_grey,
    read_rgb,
)
from training.data.datasets.label_files import IdFiles


class Time(str, Enum):
    """When a sample was taken, by the last letter of its name."""

    ALL = "all"
    DAY = "day"
    NIGHT = "night"


class MfnetOptions(Config):
    """Which part of MFNet."""

    time: Time = option(Time.ALL, doc="time of day to keep")
    flips: bool = option(
        False, doc="keep the mirrored copies (_flip) that lists may name, besides the originals"
    )


COUNTS = {"train": 784, "val": 392, "test": 393}
"""Published samples per split, without mirrored copies."""

_FLIP = "_flip"
_RGB_FOLDERS = ("RGB", "rgb", "img")
_X_FOLDERS = ("ther", "thermal", "Thermal", "Modal", "X", "T")
_LABEL_FOLDERS = ("labels", "Label", "Labels", "label")


class MfnetReader(FileReader):
    """One split of MFNet; groups are day and night.

    Thermal enters the encoder raw, as 8-bit values, so that data set and camera are greyed by
    the same `encoding.thermal`.

    Args:
        root: folder with the lists.
        split: train, val or test.
        modality: thermal.
        options: selection.
    """

    space = MFNET
    options = MfnetOptions
    splits = tuple(COUNTS)
    modalities = (Modality.THERMAL,)

    def _find(self, root: Path, split: str, options: MfnetOptions) -> Found:
        folders = _folders(root)
        self._is_original = folders[1] is None
        return Found(
            _list(root, split, folders, options),
            IdFiles(MFNET),
            layout="original" if self._is_original else "re-pack in folders",
            x="alpha of images/" if self._is_original else f"{folders[1]}/",
            published=_published(split, options),
        )

    def _images(self, files: SampleFiles) -> tuple[NDArray[np.uint8], Array, XForm]:
        if not self._is_original:
            return read_rgb(files.rgb), read_grey(files.x[0]), XForm.RAW
        image = read_image(files.rgb)
        if image.ndim != 3 or image.shape[2] != 4 or image.dtype != np.uint8:
            raise DataError(
                f"{files.rgb}: shape {image.shape} of {image.dtype}; expected (H, W, 4) of uint8 "
                "with thermal as alpha; was it saved again without alpha?"
            )
        rgb, thermal = image[..., :3], image[..., 3]
        return np.ascontiguousarray(rgb), np.ascontiguousarray(thermal), XForm.RAW


def _folders(root: Path) -> tuple[str, str | None, str]:
    """Folders of RGB, X (None: in the RGB files' alpha) and labels."""
    present = folder_names(root)
    label = first_present(_LABEL_FOLDERS, present)
    rgb, x = first_present(_RGB_FOLDERS, present), first_present(_X_FOLDERS, present)
    if label and rgb and x:
        return rgb, x, label
    if label and "images" in present:
        return "images", None, label
    raise DataError(
        f"{root}: folders {', '.join(sorted(present)) or 'none'} are no MFNet; expected images "
        f"and labels, or one of {', '.join(_RGB_FOLDERS)} with one of {', '.join(_X_FOLDERS)} and "
        "labels"
    )


def _list(
    root: Path, split: str, folders: tuple[str, str | None, str], options: MfnetOptions
) -> Listing:
    listing = Listing()
    path = root / f"{split}.txt"
    if not path.is_file():
        raise DataError(
            f"{path}: is missing; expected the list of MFNet's {split} samples (some re-packs "
            "carry train.txt and test.txt only)"
        )
    names = listed_stems(path, listing)
    flips = [name for name in names if name.endswith(_FLIP)]
    if options.flips and not flips:
        listing.warnings.append(f"option flips: {path.name} names no mirrored copies")
    rgb, labels = Folder(root / folders[0]), Folder(root / folders[2])
    x = Folder(root / folders[1]) if folders[1] else None
    for name in names:
        time = _time(name, path)
        is_dropped = name.endswith(_FLIP) and not options.flips
        if is_dropped or options.time not in (Time.ALL, time):
            continue
        files = SampleFiles(
            id=name,
            rgb=rgb.find(name),
            x=(x.find(name),) if x else (),
            label=labels.find(name),
            groups=(time.value,),
        )
        listing.files.append(files)
    return listing


def _time(name: str, path: Path) -> Time:
    letter = name.removesuffix(_FLIP)[-1:]
    if letter not in ("D", "N"):
        raise DataError(f"{path}: '{name}' is no MFNet name; expected such as 00123D or 00124N")
    return Time.DAY if letter == "D" else Time.NIGHT


def _published(split: str, options: MfnetOptions) -> int | None:
    if options.time is not Time.ALL:
        return None  # 820 day and 749 night samples in all; not published per split
    doubled = options.flips and split == "train"
    return COUNTS[split] * (2 if doubled else 1)
