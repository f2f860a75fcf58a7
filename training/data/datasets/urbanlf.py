"""UrbanLF: streets through a 9 x 9 light-field camera, a real and a synthetic part.

Each part is `<split>/Image<n>/` with views `u_v.png` (u, v in 1 to 9, centre `5_5`). Labels of
the real part: `label.npy` or colours in `label.png`; of the synthetic part: `5_5_label.npy`. The
files tell the parts apart, not the names of folders. A re-pack holds `View/V55`, `View/V11`,
`Label` and `Train_list.txt`, `Val_list.txt`.
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import field_validator

from segrgbx_core.base.config import Config, option
from segrgbx_core.base.errors import DataError
from segrgbx_core.base.modality import Modality
from segrgbx_core.base.samples import Array, XForm
from segrgbx_core.labels.tables import URBANLF
from training.data.datasets.file_reader import (
    FileReader,
    Folder,
    Found,
    Listing,
    SampleFiles,
    folder_names,
    listed_stems,
    read_rgb,
)
from training.data.datasets.label_files import ColourFiles, IdFiles


class Part(str, Enum):
    """Which part of UrbanLF."""

    ALL = "all"
    REAL = "real"
    SYNTHETIC = "synthetic"


class UrbanLfLabels(str, Enum):
    """Which label files of the real part."""

    IDS = "ids"
    """`label.npy`."""
    COLOURS = "colours"
    """`label.png`."""


class UrbanLfOptions(Config):
    """What to read of UrbanLF."""

    part: Part = option(Part.ALL, doc="real, synthetic or all parts that are there")
    view: str = option("1_1", doc="view that serves as X: row and column, 1 to 9")
    labels: UrbanLfLabels = option(
        UrbanLfLabels.IDS, doc="labels of the real part: ids (label.npy) or colours (label.png)"
    )

    @field_validator("view")
    @classmethod
    def _check_view(cls, view: str) -> str:
        row, _, column = view.partition("_")
        if row not in _INDICES or column not in _INDICES:
            raise ValueError("a view is row_column with both in 1 to 9, such as 1_1")
        return view


_INDICES = tuple("123456789")

COUNTS = {
    Part.REAL: {"train": 580, "val": 80, "test": 164},
    Part.SYNTHETIC: {"train": 172, "val": 28, "test": 50},
}
"""Published samples; labels of test are kept back by the benchmark."""

_CENTRE = "5_5"
_REPACK_LISTS = {"train": "Train_list.txt", "val": "Val_list.txt", "test": "Test_list.txt"}


class UrbanLfReader(FileReader):
    """One split of UrbanLF: the centre view is RGB, another view is X; the group is the part.

    Args:
        root: the real part, the synthetic part, a folder that holds both, or the re-pack.
        split: train or val; test where its labels are at hand.
        modality: light_field.
        options: what to read.
    """

    space = URBANLF
    options = UrbanLfOptions
    splits = ("train", "val")
    kept_back = ("test",)
    modalities = (Modality.LIGHT_FIELD,)

    def _find(self, root: Path, split: str, options: UrbanLfOptions) -> Found:
        is_repack = {"View", "Label"} <= folder_names(root)
        parts = {} if is_repack else _find_parts(root, split, options.part)
        listing = _list_repack(root, split, options) if is_repack else Listing()
        for part, home in parts.items():
            _list_part(listing, part, home / split, options)
        self._colours = ColourFiles(URBANLF)
        shows_colours = options.labels is UrbanLfLabels.COLOURS and Part.REAL in parts
        return Found(
            listing,
            _PartLabels(self._colours) if shows_colours else IdFiles(URBANLF),
            layout="re-pack View, Label" if is_repack else " and ".join(p.value for p in parts),
            x=f"view {options.view}",
            published=None if is_repack else sum(COUNTS[part][split] for part in parts),
            notes=("mirrored pairs reverse the parallax between the views",),
        )

    @property
    def unmatched(self) -> dict[str, int]:
        """Pixels per label file read so far whose colour is in no table; they are void."""
        return dict(self._colours.unmatched)

    def _images(self, files: SampleFiles) -> tuple[NDArray[np.uint8], Array, XForm]:
        return read_rgb(files.rgb), read_rgb(files.x[0]), XForm.IMAGE


class _PartLabels:
    """Colours in PNG files, ids in arrays: the real part by colours beside the synthetic one."""

    def __init__(self, colours: ColourFiles) -> None:
        self._colours, self._ids = colours, IdFiles(URBANLF)

    @property
    def coding(self) -> str:
        return f"label.png: {self._colours.coding}; label.npy: {self._ids.coding}"

    def read(self, path: Path) -> NDArray[np.uint8]:
        return (self._ids if path.suffix == ".npy" else self._colours).read(path)


def _find_parts(root: Path, split: str, wanted: Part) -> dict[Part, Path]:
    homes = [root, *(root / name for name in sorted(folder_names(root)))]
    parts: dict[Part, Path] = {}
    for home in homes:
        part = _part_of(home)
        if part is None or not (home / split).is_dir():
            continue
        if part in parts:
            raise DataError(
                f"{root}: both {parts[part].name} and {home.name} hold a {part.value} part; "
                "name one of them as the root"
            )
        parts[part] = home
    if wanted is not Part.ALL:
        parts = {part: home for part, home in parts.items() if part is wanted}
    if not parts:
        what = "part" if wanted is Part.ALL else f"{wanted.value} part"
        raise DataError(
            f"{root}: holds no {what} of UrbanLF with split {split}; expected {split}/Image001/"
            f"{_CENTRE}.png with label.npy (real) or {_CENTRE}_label.npy (synthetic), here or one "
            "folder down"
        )
    return dict(sorted(parts.items(), key=lambda item: item[0].value))


def _part_of(home: Path) -> Part | None:
    """The part that lies in a folder, by the label files of any of its samples."""
    for split in _REPACK_LISTS:
        for folder in sorted((home / split).glob("*/")):
            if (folder / f"{_CENTRE}_label.npy").exists():
                return Part.SYNTHETIC
            if (folder / "label.npy").exists() or (folder / "label.png").exists():
                return Part.REAL
    return None


def _list_part(listing: Listing, part: Part, home: Path, options: UrbanLfOptions) -> None:
    name = f"{_CENTRE}_label.npy"
    if part is Part.REAL:
        name = "label.npy" if options.labels is UrbanLfLabels.IDS else "label.png"
    folders = sorted(path for path in home.iterdir() if path.is_dir())
    if home.name == "test" and folders and not (folders[0] / name).exists():
        raise DataError(
            f"{folders[0] / name}: is missing; UrbanLF keeps the labels of its test split back, "
            "score on val"
        )
    for folder in folders:
        files = SampleFiles(
            id=f"{part.value}/{home.name}/{folder.name}",
            rgb=folder / f"{_CENTRE}.png",
            x=(folder / f"{options.view}.png",),
            label=folder / name,
            groups=(part.value,),
        )
        listing.files.append(files)


def _list_repack(root: Path, split: str, options: UrbanLfOptions) -> Listing:
    listing = Listing()
    view = Folder(root / "View" / f"V{options.view.replace('_', '')}")
    centre, labels = Folder(root / "View" / "V55"), Folder(root / "Label")
    for name in listed_stems(root / _REPACK_LISTS[split], listing):
        listing.files.append(
            SampleFiles(name, centre.find(name), (view.find(name),), labels.find(name))
        )
    return listing
