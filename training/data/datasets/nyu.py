"""NYUDepthV2 with 40 classes: rooms, RGB with depth or HHA, in the layouts of common re-packs.

Re-packs differ in folders, in their lists, and in what label values mean: 1 to 40 with 0 as void,
or 0 to 39 with 255. Folders tell the layout; the labels' own values tell the coding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from segrgbx_core.base.config import Config, option
from segrgbx_core.base.errors import DataError
from segrgbx_core.base.modality import Modality
from segrgbx_core.base.samples import Array, XForm
from segrgbx_core.labels.tables import NYU
from segrgbx_core.sensors import DepthSensor, SensorConfig
from training.data.datasets.file_reader import (
    FileReader,
    Folder,
    Found,
    Listing,
    SampleFiles,
    folder_names,
    listed_stems,
    read_grey,
    read_rgb,
)
from training.data.datasets.label_files import IdFiles, detect_offset


class NyuX(str, Enum):
    """What serves as X."""

    AUTO = "auto"
    """HHA where the re-pack has it, else depth."""
    HHA = "hha"
    DEPTH = "depth"
    DEPTH_RAW = "depth_raw"
    """Depth with holes, as the camera measured it."""


class NyuCoding(str, Enum):
    """What label values mean."""

    AUTO = "auto"
    """Found out from the values of the labels."""
    FROM_ONE = "from_one"
    """1 to 40 are classes, 0 is void."""
    FROM_ZERO = "from_zero"
    """0 to 39 are classes, 255 is void."""


class NyuOptions(Config):
    """What to read of a re-pack of NYUDepthV2."""

    x: NyuX = option(NyuX.AUTO, doc="what serves as X: hha, depth or depth_raw")
    coding: NyuCoding = option(NyuCoding.AUTO, doc="what label values mean")
    unit_16u: float = option(
        0.001, doc="metres per count of 16-bit depth", unit="m", low=1e-6, high=1
    )


COUNTS = {"train": 795, "test": 654}
"""Published samples per split; there is no val."""


@dataclass(frozen=True)
class Pack:
    """How one re-pack lays its files.

    Attributes:
        name: for reports.
        rgb: folder of RGB images.
        label: folder of labels.
        x: folder of each X that it may hold.
        lists: names of the list file of each split, first found first.
        by_split: True where folders lie below train/ and test/.
    """

    name: str
    rgb: str
    label: str
    x: Mapping[NyuX, str]
    lists: Mapping[str, tuple[str, ...]]
    by_split: bool = False


_LISTS = {"train": ("train.txt",), "test": ("test.txt",)}
_HHA_OR_DEPTH = {NyuX.HHA: "HHA", NyuX.DEPTH: "Depth"}

PACKS = (
    Pack("CMX, SA-Gate, CMNeXt, DFormer", "RGB", "Label", _HHA_OR_DEPTH, _LISTS),
    Pack("StitchFusion", "RGB", "Labels", _HHA_OR_DEPTH, _LISTS),
    Pack(
        "TokenFusion, GeminiFusion",
        "rgb",
        "masks",
        {NyuX.HHA: "HHA", NyuX.DEPTH: "depth"},
        {"train": ("train.txt",), "test": ("test.txt", "val.txt")},
    ),
    Pack(
        "ESANet",
        "rgb",
        "labels_40",
        {NyuX.DEPTH: "depth", NyuX.DEPTH_RAW: "depth_raw"},
        _LISTS,
        by_split=True,
    ),
)
"""The layouts that are recognized."""


class NyuReader(FileReader):
    """One split of NYUDepthV2.

    HHA and 8-bit depth are pictures; 16-bit depth is raw, so that the encoder of a live camera
    makes the X image.

    Args:
        root: folder of a re-pack, with its lists.
        split: train or test.
        modality: depth.
        options: what to read.
    """

    space = NYU
    options = NyuOptions
    splits = tuple(COUNTS)
    hints: ClassVar = {"val": "; val does not exist, models are usually chosen on test"}
    modalities = (Modality.DEPTH,)

    def _find(self, root: Path, split: str, options: NyuOptions) -> Found:
        # The published centre (325.5824, 253.7362) counts the first pixel as (1, 1).
        camera = {"fx": 518.8579, "fy": 519.4696, "cx": 324.5824, "cy": 252.7362}
        self.sensor = SensorConfig(depth=DepthSensor(unit_16u=options.unit_16u, **camera))
        pack = find_pack(root, split)
        home = root / split if pack.by_split else root
        self._x = _choose_x(options.x, pack, home)
        listing = _list(root, home, split, pack, self._x)
        note = "X is drawn HHA: set encoding.depth.representation to hha for live depth"
        return Found(
            listing,
            _label_files(options.coding, root, pack),
            layout=f"{pack.name} ({pack.rgb}, {pack.x[self._x]}, {pack.label})",
            x=f"{pack.x[self._x]}/",
            published=COUNTS[split],
            notes=(note,) if self._x is NyuX.HHA else (),
        )

    def _images(self, files: SampleFiles) -> tuple[NDArray[np.uint8], Array, XForm]:
        rgb = read_rgb(files.rgb)
        if self._x is NyuX.HHA:
            return rgb, read_rgb(files.x[0]), XForm.IMAGE
        depth = read_grey(files.x[0])
        return rgb, depth, XForm.IMAGE if depth.dtype == np.uint8 else XForm.RAW


def find_pack(root: Path, split: str) -> Pack:
    """The re-pack that lies in a folder.

    Raises:
        DataError: when it is none of those that are known.
    """
    present = folder_names(root)
    for pack in PACKS:
        names = present
        if pack.by_split:
            names = folder_names(root / split) if split in present else set()
        if {pack.rgb, pack.label} <= names and set(pack.x.values()) & names:
            return pack
    known = "; ".join(
        f"{'train/ and test/ with ' if p.by_split else ''}{p.rgb}, "
        f"{' or '.join(p.x.values())}, {p.label}"
        for p in PACKS
    )
    raise DataError(
        f"{root}: folders {', '.join(sorted(present)) or 'none'} are no known layout of "
        f"NYUDepthV2; expected {known}"
    )


def _choose_x(wanted: NyuX, pack: Pack, home: Path) -> NyuX:
    present = folder_names(home)
    held = [x for x, folder in pack.x.items() if folder in present]
    if wanted is NyuX.AUTO:
        return held[0]
    if wanted not in held:
        names = ", ".join(x.value for x in held)
        raise DataError(f"{home}: has no {wanted.value}; x may be {names} here")
    return wanted


def _list(root: Path, home: Path, split: str, pack: Pack, x: NyuX) -> Listing:
    listing = Listing()
    path = _list_file(root, split, pack)
    # In lists with columns the first is RGB, and names are the same in every folder.
    rgb, label, depth = (Folder(home / name) for name in (pack.rgb, pack.label, pack.x[x]))
    for name in listed_stems(path, listing):
        listing.files.append(
            SampleFiles(name, rgb.find(name), (depth.find(name),), label.find(name))
        )
    return listing


def _list_file(root: Path, split: str, pack: Pack) -> Path:
    lists = [root / name for name in pack.lists[split]]
    return next((path for path in lists if path.is_file()), lists[0])


def _label_files(coding: NyuCoding, root: Path, pack: Pack) -> IdFiles:
    if coding is NyuCoding.FROM_ONE:
        return IdFiles(NYU, 1, (0, 255), "as stated")
    if coding is NyuCoding.FROM_ZERO:
        return IdFiles(NYU, 0, (255,), "as stated")
    present = _labels_of_all_splits(root, pack)
    return detect_offset(present, NYU) if present else IdFiles(NYU)


def _labels_of_all_splits(root: Path, pack: Pack) -> list[Path]:
    # One coding holds for the data set: a split alone may lack the values that tell it.
    paths = []
    for split in pack.lists:
        path, home = _list_file(root, split, pack), root / split if pack.by_split else root
        if path.is_file():
            labels = Folder(home / pack.label)
            paths += [labels.find(stem) for stem in listed_stems(path, Listing())]
    return [path for path in paths if path.exists()]
