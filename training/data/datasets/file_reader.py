"""What readers of data sets in files share: a list of samples, checks, and reading one of them.

A data set's own file says where the files of a sample lie and how its X is read; everything else
is here, so that all of them refuse, count and report alike.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from segrgbx_core.base.config import Config
from segrgbx_core.base.errors import ConfigError, DataError, did_you_mean
from segrgbx_core.base.images import read_image
from segrgbx_core.base.modality import Modality
from segrgbx_core.base.samples import Array, Events, RgbxSample, XForm
from segrgbx_core.labels.tables import NativeSpace
from segrgbx_core.sensors import SensorConfig
from training.data.datasets.label_files import LabelFiles, Labels
from training.data.datasets.labelled_sample import Labelled

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class SampleFiles:
    """Where one sample lies.

    Attributes:
        id: unique over all splits of the data set.
        rgb: the RGB image.
        x: the files of X, in the order of the data set's reader.
        label: the label file.
        groups: facts to score by, such as "night".
    """

    id: str
    rgb: Path
    x: tuple[Path, ...]
    label: Path
    groups: tuple[str, ...] = ()


@dataclass
class Listing:
    """Samples of a split while they are being gathered.

    Attributes:
        files: samples so far.
        warnings: what was odd.
    """

    files: list[SampleFiles] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Found:
    """What a data set's own reader makes of the folder that it is given.

    Attributes:
        listing: the samples.
        labels: reads label files.
        layout: which of the known ways to lay out the data set.
        x: what is read as X.
        published: samples of this selection as published; None where no figure is known.
        notes: what to know when training on it.
    """

    listing: Listing
    labels: LabelFiles
    layout: str
    x: str
    published: int | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Description:
    """What a reader found and decided; layout, x, published and notes as in `Found`.

    Attributes:
        space: the data set's classes.
        modality: its X.
        root: folder.
        split: name of the split.
        coding: what label file values mean.
        num_samples: samples found.
        warnings: what differs from the published data set.
    """

    space: NativeSpace
    modality: Modality
    root: Path
    split: str
    layout: str
    x: str
    published: int | None
    notes: tuple[str, ...]
    coding: str
    num_samples: int
    warnings: tuple[str, ...]

    def lines(self) -> list[str]:
        """The facts as lines of text."""
        known = "" if self.published is None else f" (published: {self.published})"
        return [
            f"data set   {self.space.name}, split {self.split}: {self.num_samples} samples{known}",
            f"layout     {self.layout} in {self.root}",
            f"X          {self.modality}: {self.x}",
            f"labels     {self.space.num_classes} classes; {self.coding}",
            *(f"note       {note}" for note in self.notes),
        ]


class FileReader(ABC):
    """Random access to the samples of one split that lie in files; see `datasets.Reader`.

    Attributes:
        native: name of the label space.
        modality: X.
        space: the label space.
        sensor: properties of the sensors behind the files, for encoders.
        options: class of the data set's own options.
        splits: the published splits that have labels.
        kept_back: splits that are published without labels; read where these are at hand.
        hints: what to say to those who ask for a split of that name, which is not there.
        has_x: False where X is missing.
        modalities: the X that the data set offers, the usual one first.

    Args:
        root: folder of the data set; each data set's own class says what it holds.
        split: one of `splits` or `kept_back`.
        modality: one of `modalities`; None for the usual one.
        options: an instance of the class `options`; None for its defaults.

    Raises:
        ConfigError: when the data set has no such split or modality.
        DataError: when there are no samples or files are missing.
    """

    space: NativeSpace
    sensor = SensorConfig()
    options: ClassVar[type[Config]]
    splits: tuple[str, ...]
    kept_back: ClassVar[tuple[str, ...]] = ()
    hints: ClassVar[Mapping[str, str]] = {}
    modalities: tuple[Modality, ...]
    has_x = True

    def __init__(
        self,
        root: Path,
        split: str,
        modality: Modality | None = None,
        options: Config | None = None,
    ) -> None:
        self.native, self.modality = self.space.name, modality or self.modalities[0]
        self._require_offered(split)
        if not root.is_dir():
            raise DataError(f"{root}: is no folder; docs/data.md says how to place {self.native}")
        contents = self._find(root, split, options or self.options())
        self._files, self._labels = tuple(contents.listing.files), contents.labels
        place = f"{root}: {self.native} {split}"
        if not self._files:
            raise DataError(f"{place}: the selection holds no samples; check root and options")
        self._description = Description(
            space=self.space,
            modality=self.modality,
            root=root,
            split=split,
            layout=contents.layout,
            x=contents.x,
            published=contents.published,
            notes=contents.notes,
            coding=contents.labels.coding,
            num_samples=len(self._files),
            warnings=(
                *contents.listing.warnings,
                *_count_warning(len(self._files), contents.published),
            ),
        )
        _require_unique(self._files, place)
        _require_files(self._files, self._description)
        for warning in self._description.warnings:
            log.warning("%s: %s", place, warning)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Labelled:
        files = self._files[index]
        rgb, x, form = self._images(files)
        labels = self._label_map(files.label)
        if labels.shape != rgb.shape[:2]:
            raise DataError(
                f"{files.label}: labels are {labels.shape[1]}x{labels.shape[0]} but "
                f"{files.rgb.name} is {rgb.shape[1]}x{rgb.shape[0]}; both must have one size"
            )
        stamp_ns = self._stamp_ns(files)
        sample = RgbxSample(rgb, x, self.modality, stamp_ns=stamp_ns, x_form=form)
        return Labelled(sample, labels, files.id, files.groups)

    @classmethod
    def offered(cls, root: Path) -> tuple[tuple[str, ...], tuple[Modality, ...]]:  # noqa: ARG003
        """Splits with labels, and X, the usual one first, of the data set in a folder."""
        return cls.splits, cls.modalities

    @property
    def ids(self) -> tuple[str, ...]:
        """Identity of each sample, unique over all splits of the data set."""
        return tuple(files.id for files in self._files)

    @property
    def files(self) -> tuple[SampleFiles, ...]:
        """Where each sample lies."""
        return self._files

    @property
    def labels(self) -> LabelFiles:
        """What reads the label files."""
        return self._labels

    def describe(self) -> Description:
        """What was found and decided on opening."""
        return self._description

    @abstractmethod
    def _find(self, root: Path, split: str, options: Any) -> Found:
        """Lists the samples of a split, in whatever layout the folder has.

        Raises:
            DataError: when it has none of those that are known.
        """

    @abstractmethod
    def _images(self, files: SampleFiles) -> tuple[NDArray[np.uint8], Array | Events, XForm]:
        """RGB, X and the entry point of X's encoder."""

    def _stamp_ns(self, files: SampleFiles) -> int:  # noqa: ARG002
        """When RGB was taken, in ns, for windows of events; 0 where it is unknown."""
        return 0

    def _label_map(self, path: Path) -> Labels:
        return self._labels.read(path)

    def _require_offered(self, split: str) -> None:
        known = (*self.splits, *self.kept_back)
        if split not in known:
            hint = f"{did_you_mean(split, known)}{self.hints.get(split, '')}"
            raise ConfigError(f"{self.native}: split '{split}' does not exist{hint}")
        if self.modality not in self.modalities:
            names = ", ".join(offer.value for offer in self.modalities)
            raise ConfigError(f"{self.native}: has no {self.modality}; its X is {names}")


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """A colour image as uint8 (H, W, 3): alpha is left out, grey is repeated.

    Raises:
        DataError: when the file is missing, broken, or not 8 bits deep.
    """
    return as_rgb(read_image(path), path)


def as_rgb(image: Array, path: Path) -> NDArray[np.uint8]:
    """An image that was just read as uint8 (H, W, 3); see `read_rgb`."""
    if image.dtype != np.uint8:
        raise DataError(f"{path}: holds {image.dtype}; expected 8 bits per channel")
    if image.ndim == 2:
        return np.asarray(cv2.merge([image, image, image]), np.uint8)
    return np.ascontiguousarray(image[..., :3])


def read_grey(path: Path) -> Array:
    """A one-channel image (H, W), also where it was stored as colour with equal channels.

    Raises:
        DataError: when the file is missing or broken.
    """
    image = read_image(path)
    if image.ndim == 3:
        return np.asarray(cv2.cvtColor(np.ascontiguousarray(image[..., :3]), cv2.COLOR_RGB2GRAY))
    return image


def read_list(path: Path) -> list[list[str]]:
    """The lines of a list file, each as its columns (by tabs where there are any, else blanks).

    Raises:
        DataError: when the file is missing or is no text.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read ({reason}); expected a list of names") from None
    columns = (line.split("\t") if "\t" in line else line.split() for line in lines)
    return [[part.strip() for part in parts] for parts in columns if any(map(str.strip, parts))]


def entry_stem(entry: str) -> str:
    """The sample that a list entry means: its last path component without an image suffix."""
    name = PurePosixPath(entry.replace("\\", "/")).name
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in IMAGE_SUFFIXES else name


def listed_stems(path: Path, listing: Listing) -> list[str]:
    """Samples of a list file by its first column, in order; repeated ones are left out."""
    stems = [entry_stem(columns[0]) for columns in read_list(path)]
    unique = list(dict.fromkeys(stems))
    if len(unique) < len(stems):
        listing.warnings.append(f"{path.name} names {len(stems) - len(unique)} samples twice")
    return unique


class Folder:
    """The images of one folder by stem, whatever their format.

    Args:
        path: the folder; it may be missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._by_stem: dict[str, Path] = {}
        if path.is_dir():
            files = [file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES]
            files.sort(key=lambda file: (IMAGE_SUFFIXES.index(file.suffix.lower()), file.name))
            for file in files:
                self._by_stem.setdefault(file.stem, file)

    def find(self, stem: str) -> Path:
        """The image of that stem; where there is none, the path that a PNG would have."""
        return self._by_stem.get(stem) or self.path / f"{stem}.png"

    def stems(self) -> list[str]:
        """All stems, sorted."""
        return sorted(self._by_stem)


def folder_names(root: Path) -> set[str]:
    """Names of the folders in a folder, in their own spelling even where the disk ignores case.

    Raises:
        DataError: when the folder is missing.
    """
    try:
        return {entry.name for entry in root.iterdir() if entry.is_dir()}
    except OSError as error:
        raise DataError(
            f"{root}: cannot be read ({error.strerror}); check the data set's root"
        ) from None


def first_present(names: Iterable[str], present: set[str]) -> str | None:
    """The first of `names` that is present."""
    return next((name for name in names if name in present), None)


def _require_unique(files: Sequence[SampleFiles], place: str) -> None:
    seen: dict[str, SampleFiles] = {}
    for sample in files:
        other = seen.setdefault(sample.id, sample)
        if other is not sample:
            raise DataError(f"{place}: {other.rgb} and {sample.rgb} are both sample '{sample.id}'")


def _require_files(files: Sequence[SampleFiles], description: Description) -> None:
    first, lacking = "", 0
    for sample in files:
        roles = [("RGB image", sample.rgb), ("label", sample.label)]
        roles[1:1] = [(f"{description.modality} file", path) for path in sample.x]
        missing = [(role, path) for role, path in roles if not path.exists()]
        lacking += bool(missing)
        if missing and not first:
            role, path = missing[0]
            first = f"{path}: is missing; expected the {role} of sample '{sample.id}'"
    if lacking:
        raise DataError(
            f"{first}, layout {description.layout} ({lacking} of {len(files)} samples of split "
            f"'{description.split}' lack files); complete the copy or its list file"
        )


def _count_warning(count: int, published: int | None) -> list[str]:
    if published is None or count == published:
        return []
    gap = count - published
    word = "fewer" if gap < 0 else "more"
    return [f"{count} samples, {abs(gap)} {word} than the {published} published"]
