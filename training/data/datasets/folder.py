"""A data set of one's own: a folder with a `dataset.yaml`, see docs/your_data.md."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segrgbx_core.base.arrays import read_array, read_arrays
from segrgbx_core.base.config import Config, option
from segrgbx_core.base.errors import ConfigError, DataError
from segrgbx_core.base.images import read_image
from segrgbx_core.base.modality import MODALITIES, Modality
from segrgbx_core.base.samples import Array, Events, XForm
from segrgbx_core.labels.label_space import VOID
from segrgbx_core.labels.tables import NativeSpace, Rgb
from segrgbx_core.sensors.light_field import LightFieldLayout
from training.data.datasets.dataset_file import (
    SPLITS,
    DatasetFile,
    LabelForm,
    OwnDataset,
    files_by_stem,
    read_dataset_file,
)
from training.data.datasets.file_reader import (
    IMAGE_SUFFIXES,
    FileReader,
    Found,
    Listing,
    SampleFiles,
    read_rgb,
)
from training.data.datasets.label_files import IdFiles, LabelFiles, Labels, is_indexed
from training.data.datasets.synthetic import XSource

_ASPECT_TOLERANCE = 0.03
"""Relative difference of aspect ratio above which RGB and X do not show one view."""
_ARRAY_SUFFIXES = (".npy", ".npz")


class FolderOptions(Config):
    """What serves as X."""

    x: XSource = option(XSource.OWN, doc="own, none (zeros), rgb (RGB twice) or other (frame)")


class FolderReader(FileReader):
    """One split of a folder with a `dataset.yaml`.

    Attributes:
        label_space: what the places of `space` refer to.
        identity: changes with whatever decides which samples the split has and what they mean.

    Args:
        root: the folder.
        split: train, val or test.
        modality: that of the file; of data without X, whose place stays empty.
        options: what serves as X.
    """

    splits = SPLITS
    options = FolderOptions
    modalities = MODALITIES

    def __init__(
        self,
        root: Path,
        split: str,
        modality: Modality | None = None,
        options: FolderOptions | None = None,
    ) -> None:
        self._own = read_dataset_file(root)
        self.space = self._own.space
        self.sensor = self._own.config.sensor
        self.label_space = self._own.label_space
        self._x = (options or FolderOptions()).x
        stated = self._own.config.modality
        self.has_x = bool(self._own.config.x) and self._x is not XSource.NONE
        self.modalities = self.modalities if stated is None else (stated,)
        super().__init__(root, split, modality, options)
        digest = hashlib.sha256("\n".join((self._own.text, *self.ids)).encode())
        self.identity = digest.hexdigest()[:16]

    @classmethod
    def offered(cls, root: Path) -> tuple[tuple[str, ...], tuple[Modality, ...]]:
        """See `FileReader.offered`."""
        config = read_dataset_file(root).config
        stated = {"train", *config.splits}
        modalities = (config.modality,) if config.modality else (Modality.THERMAL, *MODALITIES)
        return tuple(split for split in SPLITS if split in stated), modalities

    def _find(self, root: Path, split: str, options: FolderOptions) -> Found:  # noqa: ARG002
        own = self._own
        config, listing = own.config, Listing()
        rgb = files_by_stem(root, config.rgb)
        labels = files_by_stem(root, config.labels)
        x = files_by_stem(root, config.x) if config.x else {}
        for pattern, files in ((config.labels, labels), (config.x, x)):
            _compare_stems(root, (config.rgb, rgb), (pattern, files), listing)
        labelled = [stem for stem in rgb if stem in labels]
        stems, is_drawn = _split_stems(own, root, split, (list(rgb), labelled))
        if is_drawn and len(labelled) < len(rgb):
            first = next(stem for stem in rgb if stem not in labels)
            listing.warnings.append(
                f"{len(rgb) - len(labelled)} of {len(rgb)} RGB images have no label and are left "
                f"out, such as '{first}'"
            )
        for stem in stems:
            sample = SampleFiles(
                id=stem,
                rgb=rgb[stem],
                x=(x.get(stem, _expected(root, config.x, stem)),) if config.x else (),
                label=labels.get(stem, _expected(root, config.labels, stem)),
            )
            listing.files.append(sample)
        return Found(
            listing,
            _label_files(own, next(iter(labels.values()))),
            layout=own.path.name,
            x=f"{config.x}, {config.x_form.value}" if config.x else "missing",
            published=None,
            notes=_notes(own, self._x),
        )

    def _images(self, files: SampleFiles) -> tuple[NDArray[np.uint8], Array | Events, XForm]:
        rgb = read_rgb(files.rgb)
        if self._x is XSource.RGB:
            return rgb, rgb, XForm.IMAGE
        if self._x is XSource.NONE or not files.x:
            return rgb, np.zeros_like(rgb), XForm.IMAGE
        path = files.x[0]
        if self._x is XSource.OTHER:
            place = self._files.index(files)
            path = self._files[(place + len(self) // 2) % len(self)].x[0]
        x = read_x(path, rgb.shape[:2])
        if self._x is not XSource.OTHER:
            self._require_one_view(x, path, rgb, files.rgb)
        return rgb, x, self._own.config.x_form

    def _stamp_ns(self, files: SampleFiles) -> int:
        """The end of an event window, where its file states it."""
        if self._x is not XSource.OWN or not files.x or files.x[0].suffix.lower() != ".npz":
            return 0
        with np.load(files.x[0], allow_pickle=False) as stored:
            return int(stored["stamp_ns"]) if "stamp_ns" in stored else 0

    def _require_one_view(
        self, x: Array | Events, x_path: Path, rgb: NDArray[np.uint8], rgb_path: Path
    ) -> None:
        if self.sensor.light_field.layout is not LightFieldLayout.SINGLE:
            return
        height, width = (x.height, x.width) if isinstance(x, Events) else x.shape[:2]
        gap = width * rgb.shape[0] / (height * rgb.shape[1])
        if abs(gap - 1) > _ASPECT_TOLERANCE:
            raise DataError(
                f"{x_path}: is {width}x{height} but {rgb_path.name} is "
                f"{rgb.shape[1]}x{rgb.shape[0]}; X must show RGB's view: register or crop it first"
            )


def read_x(path: Path, rgb_size: tuple[int, int]) -> Array | Events:
    """An X file: an image of any depth, an array (`.npy`), or a window of events (`.npz`).

    Events are arrays x, y, p of equal length with t in microseconds (integers) or seconds
    (fractions), or t_ns in nanoseconds, width and height of the sensor where these are not RGB's,
    and stamp_ns, the end of the window, where the last event is not.

    Args:
        path: the file.
        rgb_size: (height, width) of RGB.

    Raises:
        DataError: when the file is missing, broken or holds something else.
    """
    if path.suffix.lower() not in _ARRAY_SUFFIXES:
        return _flattened(read_image(path))
    if path.suffix.lower() == ".npz":
        try:
            return _events(read_arrays(path), path, rgb_size)
        except (ValueError, TypeError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{path}: holds no events ({error})") from None
    return read_array(path)


def _flattened(image: Array) -> Array:
    """Grey that was stored as colour with equal channels comes back as one channel."""
    is_colour = image.ndim == 3 and image.shape[2] == 3
    if is_colour and all(np.array_equal(image[..., 0], image[..., i]) for i in (1, 2)):
        return np.ascontiguousarray(image[..., 0])
    return image


def _events(data: Mapping[str, Array], path: Path, rgb_size: tuple[int, int]) -> Events:
    stamps = data.get("t_ns", data.get("t"))
    lacking = [name for name in ("x", "y", "p") if name not in data]
    if lacking or stamps is None:
        raise DataError(
            f"{path}: holds {', '.join(data) or 'nothing'}; events need x, y, p and t (or t_ns)"
        )
    lengths = {name: len(data[name]) for name in ("x", "y", "p")}
    if {*lengths.values()} != {len(stamps)}:
        raise DataError(f"{path}: t has {len(stamps)} events, the others {lengths}; need one each")
    if "t_ns" in data:
        t_ns = stamps.astype(np.int64)
    elif np.issubdtype(stamps.dtype, np.floating):
        t_ns = np.round(stamps * 1e9).astype(np.int64)
    else:
        t_ns = stamps.astype(np.int64) * 1000
    if (np.diff(t_ns) < 0).any():
        raise DataError(f"{path}: events are not sorted by time; sort them")
    height, width = (
        int(data[name]) if name in data else size
        for name, size in zip(("height", "width"), rgb_size, strict=True)
    )
    x, y = data["x"], data["y"]
    if len(x) and (min(x.min(), y.min()) < 0 or x.max() >= width or y.max() >= height):
        raise DataError(
            f"{path}: an event at ({x.max()}, {y.max()}) is outside the sensor of "
            f"{width}x{height}; add arrays width and height to the file"
        )
    return Events(
        x=x.astype(np.uint16),
        y=y.astype(np.uint16),
        t_ns=t_ns,
        p=(data["p"] > 0).astype(np.uint8),
        width=width,
        height=height,
    )


class OwnColourFiles:
    """Label files that show classes in their colours; a colour that is none of them is an error.

    Args:
        space: the classes and their colours.
        ignored: colours without a label.
    """

    def __init__(self, space: NativeSpace, ignored: Sequence[Rgb]) -> None:
        self.space, self.ignored = space, tuple(ignored)
        colours = np.asarray([*space.palette, *self.ignored], np.int64)
        packed = colours @ [1 << 16, 1 << 8, 1]
        ids = [*range(space.num_classes), *[VOID] * len(self.ignored)]
        order = np.argsort(packed)
        self._keys, self._ids = packed[order], np.asarray(ids, np.uint8)[order]

    @property
    def coding(self) -> str:
        """What file values mean, in words for reports."""
        void = ", ".join(map(str, map(list, self.ignored))) or "none"
        return f"colours of the classes, void: {void}"

    def read(self, path: Path) -> Labels:
        """Training ids of a file; see `LabelFiles.read`."""
        picture = read_image(path)
        if picture.ndim != 3 or picture.dtype != np.uint8:
            raise DataError(
                f"{path}: shape {picture.shape} of {picture.dtype} shows no colours, as other "
                "label files of this data set do; keep one form"
            )
        packed = picture[..., :3].astype(np.int64) @ [1 << 16, 1 << 8, 1]
        place = np.minimum(np.searchsorted(self._keys, packed), len(self._keys) - 1)
        unknown = self._keys[place] != packed
        if unknown.any():
            colours, counts = np.unique(packed[unknown], return_counts=True)
            worst = int(colours[counts.argmax()])
            raise DataError(
                f"{path}: colour {[worst >> 16, worst >> 8 & 255, worst & 255]} "
                f"({counts.max()} pixels) is that of no class of '{self.space.name}'; add it to "
                "classes or to ignore (were labels smoothed or stored as JPEG?)"
            )
        return self._ids[place]


def _label_files(own: OwnDataset, first: Path) -> LabelFiles:
    config = own.config
    form, evidence = config.label_form, ""
    if form is LabelForm.AUTO:
        is_picture = first.suffix.lower() in IMAGE_SUFFIXES and not is_indexed(first)
        in_colour = is_picture and _flattened(read_image(first)).ndim == 3
        form = LabelForm.COLORS if in_colour else LabelForm.IDS
        evidence = f"as in {first.name}"
    what = "color" if form is LabelForm.COLORS else "value"
    lacking = next((row for row in config.classes if getattr(row, what) is None), None)
    if lacking is not None:
        raise ConfigError(
            f"{own.path}: class '{lacking.name}' has no {what}, and {first} holds {what}s; add it "
            "or set label_form"
        )
    if form is LabelForm.COLORS:
        return OwnColourFiles(own.space, config.ignored_colours)
    values = [row.value for row in config.classes if row.value is not None]
    return IdFiles(own.space, void=config.ignored_values, evidence=evidence, values=values)


def _compare_stems(
    root: Path,
    rgb: tuple[str, dict[str, Path]],
    other: tuple[str, dict[str, Path]],
    listing: Listing,
) -> None:
    """Refuses files that share no stem with RGB; counts those without an RGB image."""
    (rgb_pattern, rgb_files), (pattern, files) = rgb, other
    if not files:
        return
    alone = [stem for stem in files if stem not in rgb_files]
    if len(alone) == len(files):
        raise DataError(
            f"{root}: no stem of {pattern} ('{alone[0]}', ...) is one of {rgb_pattern} "
            f"('{next(iter(rgb_files))}', ...); pairs have equal stems: rename, or name what "
            "differs in the patterns, such as rgb/*_rgb.png"
        )
    if alone:
        listing.warnings.append(
            f"{len(alone)} of {len(files)} files of {pattern} have no RGB image, such as "
            f"{files[alone[0]].name}"
        )


def _expected(root: Path, pattern: str, stem: str) -> Path:
    """Where the file of a stem would lie."""
    parts = iter(stem.split("/"))
    name = "".join(next(parts, part) if part == "*" else part for part in _split_stars(pattern))
    return root / name


def _split_stars(pattern: str) -> list[str]:
    parts = pattern.replace("**", "*").split("*")
    return [piece for part in parts for piece in (part, "*")][:-1]


def _split_stems(
    own: OwnDataset, root: Path, split: str, stems: tuple[Sequence[str], Sequence[str]]
) -> tuple[list[str], bool]:
    """The stems of a split, in order of the list or sorted, and whether no list names them.

    Lists say what they name. Shares are drawn from the labelled frames that no list names; where
    train is a list, from that, and train is left with the rest. Train is the rest where nobody
    names it.

    Args:
        own: the data set.
        root: its folder.
        split: name of the split.
        stems: all, and those with a label.
    """
    every, labelled = stems
    splits = dict(own.config.splits)
    lists = {
        name: _listed(root / entry, own, every)
        for name, entry in splits.items()
        if isinstance(entry, str)
    }
    pool = lists.get("train")
    is_drawn = pool is None
    if pool is None:
        listed = {stem for names in lists.values() for stem in names}
        pool = [stem for stem in labelled if stem not in listed]
    shares = {name: splits[name] for name in SPLITS if isinstance(splits.get(name), float)}
    if sum(shares.values()) > 1 + 1e-9:
        raise ConfigError(
            f"{own.path}: splits: shares sum to {sum(shares.values()):g}; allowed: 1"
        )
    drawn = _drawn(pool, shares, own.config)
    taken = {stem for names in drawn.values() for stem in names}
    rest = [stem for stem in pool if stem not in taken]
    if split in drawn:
        return [stem for stem in pool if stem in drawn[split]], is_drawn
    if split == "train":
        return rest, is_drawn
    if split in lists:
        return lists[split], False
    raise ConfigError(
        f"{own.path}: has no split '{split}'; name it under splits, with a list file or a share"
    )


def _drawn(
    pool: Sequence[str], shares: Mapping[str, float], config: DatasetFile
) -> dict[str, set[str]]:
    """What each share takes: whole blocks of neighbouring stems, in an order that the seed draws.

    The order goes by each block's first stem alone, so that frames which are added later move few
    others.
    """
    ordered = sorted(pool)
    blocks = [ordered[at : at + config.block] for at in range(0, len(ordered), config.block)]
    blocks.sort(key=lambda block: hashlib.sha256(f"{config.seed} {block[0]}".encode()).digest())
    drawn, first = {}, 0
    for name in reversed(SPLITS):  # test first: it stays when the share of others changes
        if name in shares:
            count = max(1, round(shares[name] * len(blocks)))
            drawn[name] = {stem for block in blocks[first : first + count] for stem in block}
            first += count
    return drawn


def _listed(path: Path, own: OwnDataset, stems: Sequence[str]) -> list[str]:
    """The stems that a list file names.

    Raises:
        DataError: naming the line of a stem that has no RGB image, or that stands there twice.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"{path}: cannot be read ({reason}); {own.path} names it under splits"
        ) from None
    known, lines_by_stem = set(stems), dict[str, int]()
    for number, line in enumerate(lines, start=1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        stem = entry if entry in known else _stem_of_entry(entry)
        if stem not in known:
            raise DataError(
                f"{path}, line {number}: '{entry}' has no RGB image {own.config.rgb}; remove the "
                "line, or check the pattern"
            )
        if lines_by_stem.setdefault(stem, number) != number:
            raise DataError(
                f"{path}, line {number}: '{entry}' stands at line {lines_by_stem[stem]} already; "
                "remove one of them"
            )
    return list(lines_by_stem)


def _stem_of_entry(entry: str) -> str:
    """A line as list files of other programs write it: a path with a suffix."""
    path = Path(entry.split()[0])
    return path.stem if path.suffix.lower() in (*IMAGE_SUFFIXES, *_ARRAY_SUFFIXES) else path.name


def _notes(own: OwnDataset, x: XSource) -> tuple[str, ...]:
    new = [row.name for row in own.config.classes if not row.unified]
    notes = [f"{len(own.shared)} classes share a unified one, {len(new)} are new"]
    notes += [
        f"class '{name}' is new, beside the unified class of that name; write `unified: {name}` "
        "where they are the same"
        for name in own.near
    ]
    if x is not XSource.OWN:
        notes.append(f"X is replaced: {x.value}")
    return tuple(notes)
