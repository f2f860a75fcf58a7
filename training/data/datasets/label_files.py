"""Label files to training ids: by an explicit table of file values, or by colours.

Nothing here does arithmetic on ids: a subtraction that wraps round turns one class into another
without a word. Whatever is not in the table is refused by name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segrgbx_core.base.arrays import read_array
from segrgbx_core.base.errors import DataError
from segrgbx_core.base.images import read_image, read_labels
from segrgbx_core.labels.label_space import VOID
from segrgbx_core.labels.tables import NativeSpace

Labels = NDArray[np.uint8]

_UNUSED = -1
"""Marks file values outside the table."""


class LabelFiles(Protocol):
    """Reads the label files of one data set."""

    @property
    def coding(self) -> str:
        """What file values mean, in words for reports."""

    def read(self, path: Path) -> Labels:
        """Training ids (H, W); `VOID` where the file has no label.

        Raises:
            DataError: when the file is missing, broken, or holds a value outside the table.
        """
        ...


class IdFiles:
    """Label files that hold integers: images, indexed PNGs (their indices) and `.npy` arrays.

    Args:
        space: the data set's classes.
        offset: file value of training id 0, the others follow; None for the table's.
        void: file values without a label; None for the table's.
        evidence: how the coding was found out, for reports.
        values: file value of each training id, where they do not follow each other.
    """

    def __init__(
        self,
        space: NativeSpace,
        offset: int | None = None,
        void: Sequence[int] | None = None,
        evidence: str = "",
        values: Sequence[int] | None = None,
    ) -> None:
        self.space = space
        self.offset = space.file_offset if offset is None else offset
        self.void = tuple(space.void_file_values if void is None else void)
        self.evidence = evidence
        following = range(self.offset, self.offset + space.num_classes)
        self.values = tuple(following if values is None else values)
        self._table = np.full(max(VOID, *self.values, *self.void) + 1, _UNUSED, np.int16)
        self._table[list(self.values)] = np.arange(space.num_classes)
        self._table[list(self.void)] = VOID

    @property
    def coding(self) -> str:
        """What file values mean, in words for reports."""
        first, last = self.values[0], self.values[-1]
        if self.values == tuple(range(first, last + 1)):
            which = f"{first} to {last}"
        else:
            which = ", ".join(map(str, self.values[:12])) + (
                " ..." if len(self.values) > 12 else ""
            )
        void = ", ".join(map(str, self.void)) or "none"
        how = f" ({self.evidence})" if self.evidence else ""
        return f"file values {which} are the classes, void: {void}{how}"

    def read(self, path: Path) -> Labels:
        """Training ids of a file; see `LabelFiles.read`."""
        values = read_values(path)
        if values.dtype != np.uint8 and values.size:
            last = len(self._table) - 1
            if values.min() < 0 or values.max() > last:
                worst = values.max() if values.max() > last else values.min()
                raise self._refusal(path, int(worst), int((values == worst).sum()))
        labels = np.take(self._table, values)
        if (labels == _UNUSED).any():
            foreign = values[labels == _UNUSED]
            value = int(foreign.max())
            raise self._refusal(path, value, int((foreign == value).sum()))
        return labels.astype(np.uint8)

    def _refusal(self, path: Path, value: int, pixels: int) -> DataError:
        return DataError(
            f"{path}: label value {value} ({pixels} pixels) is not in the table of "
            f"{self.space.num_classes} classes of '{self.space.name}': {self.coding}; "
            "is it the right data set, and its labels unconverted?"
        )


class ColourFiles:
    """Label files that show classes in the data set's palette.

    A colour outside the palette becomes void and is counted in `unmatched`.

    Args:
        space: the data set's classes and palette.
        tolerance: largest distance in RGB (Euclidean, 0 to 441) from a palette entry; 0 is exact.
    """

    def __init__(self, space: NativeSpace, tolerance: float = 0.0) -> None:
        self.space, self.tolerance = space, tolerance
        self.unmatched: Counter[str] = Counter()

    @property
    def coding(self) -> str:
        """What file values mean, in words for reports."""
        near = f" within {self.tolerance:g}" if self.tolerance else ""
        return f"colours of the palette{near}; others are void"

    def read(self, path: Path) -> Labels:
        """Training ids of a file; see `LabelFiles.read`."""
        picture = read_image(path)
        if picture.ndim != 3 or picture.dtype != np.uint8:
            raise DataError(
                f"{path}: shape {picture.shape} of {picture.dtype} is no colour label; "
                "expected (H, W, 3) of uint8"
            )
        labels, unmatched = ids_from_colours(picture[..., :3], self.space, self.tolerance)
        if unmatched:
            self.unmatched[str(path)] = unmatched
        return labels


def read_values(path: Path) -> NDArray[Any]:
    """The integers of a label file as they are, (H, W): image, indexed PNG or `.npy`.

    Raises:
        DataError: when the file is missing, broken, or holds something else.
    """
    if path.suffix != ".npy":
        return read_labels(path)
    values = read_array(path)
    if values.ndim != 2 or values.dtype.kind not in "biuf":
        raise DataError(
            f"{path}: shape {values.shape} of {values.dtype}; expected (H, W) of label ids"
        )
    if np.issubdtype(values.dtype, np.floating):
        is_small = np.isfinite(values) & (np.abs(values) < 2**31)
        whole = np.where(is_small, values, 0.5).astype(np.int64)
        if not np.array_equal(whole, values):
            raise DataError(f"{path}: holds fractions; expected whole label ids")
        return whole
    return values


def is_indexed(path: Path) -> bool:
    """Whether an image holds indices into a palette of its own.

    Raises:
        DataError: when the file is missing or is no image.
    """
    try:
        with Image.open(path) as image:
            return image.mode == "P"
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path}: is no image ({error})") from None


def ids_from_colours(
    picture: NDArray[np.uint8], space: NativeSpace, tolerance: float = 0.0
) -> tuple[Labels, int]:
    """Training ids of a picture that shows classes in their colours.

    Args:
        picture: uint8 (H, W, 3) in RGB order.
        space: classes and palette; colours that occur twice mean the first class.
        tolerance: how far a colour may be from its palette entry, see `ColourFiles`.

    Returns:
        uint8 (H, W), `VOID` where no entry is near enough; and how many pixels these are.
    """
    packed = _packed(picture)
    palette = np.asarray(space.palette, np.uint8)
    keys, first = np.unique(_packed(palette), return_index=True)
    place = np.minimum(np.searchsorted(keys, packed), len(keys) - 1)
    is_exact = keys[place] == packed
    labels = np.where(is_exact, first.astype(np.uint8)[place], np.uint8(VOID))
    if tolerance > 0 and not is_exact.all():
        # Few distinct colours are left over; each is measured once.
        colours, inverse = np.unique(packed[~is_exact], return_inverse=True)
        triples = np.stack([colours >> 16, colours >> 8 & 255, colours & 255], axis=1)
        nearest = np.full(len(colours), np.inf)
        ids = np.full(len(colours), VOID, np.uint8)
        for index, entry in enumerate(palette.astype(np.int64)):
            distance = np.sqrt(((triples.astype(np.int64) - entry) ** 2).sum(axis=1))
            is_nearer = distance < nearest
            ids[is_nearer], nearest[is_nearer] = index, distance[is_nearer]
        ids[nearest > tolerance] = VOID
        labels[~is_exact] = ids[inverse.reshape(-1)]
    return labels, int(np.count_nonzero(labels == VOID))


def detect_offset(
    paths: Sequence[Path], space: NativeSpace, void_when_zero: int = VOID, enough: int = 64
) -> IdFiles:
    """Finds out whether classes start at 0 or at 1 in the label files of a data set.

    With K classes, value K occurs only where they start at 1 (0 is void then). Where they start at
    0, K is never seen and void is `void_when_zero`. One image proves nothing, so files are read
    until the answer is certain: the first file with value K, or `enough` files (all, when void has
    not shown up by then) without it but with a void that only the other coding has.

    Args:
        paths: label files of the data set, in any order.
        space: its classes.
        void_when_zero: void where classes start at 0.
        enough: files after which the absence of K is believed.

    Raises:
        DataError: when a value fits neither coding, or the files do not decide.
    """
    last, seen_void, looked = space.num_classes, False, 0
    order = np.random.default_rng(0).permutation(len(paths))
    for index in order:
        path = paths[int(index)]
        values = np.unique(read_values(path))
        looked += 1
        foreign = values[(values > last) & (values != void_when_zero)]
        if foreign.size:
            raise DataError(
                f"{path}: label value {int(foreign[-1])} is not in the table of {last} classes of "
                f"'{space.name}'; expected 0 to {last} and {void_when_zero}"
            )
        seen_void |= bool((values == void_when_zero).any())
        if (values == last).any():
            return IdFiles(space, 1, (0, void_when_zero), f"value {last} seen in {path.name}")
        if looked >= enough and seen_void:
            break
    if seen_void:
        evidence = f"{void_when_zero} but no {last} in {looked} files"
        return IdFiles(space, 0, (void_when_zero,), evidence)
    raise DataError(
        f"{paths[0].parent if paths else space.name}: {looked} label files hold neither {last} "
        f"nor {void_when_zero}, so it is open whether classes start at 0 or 1; set option `coding`"
    )


def _packed(colours: NDArray[np.uint8]) -> NDArray[np.uint32]:
    red, green, blue = (colours[..., channel].astype(np.uint32) for channel in range(3))
    packed: NDArray[np.uint32] = (red << np.uint32(16)) | (green << np.uint32(8)) | blue
    return packed
