"""What is in a data set, looked over before anything is trained on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from segrgbx_core.base.errors import DataError, EncodingError, SegrgbxError
from segrgbx_core.base.images import write_image
from segrgbx_core.base.modality import Modality
from segrgbx_core.base.samples import Array, Events
from segrgbx_core.labels.label_space import VOID
from segrgbx_core.labels.overlay import (
    Picture,
    blend,
    colourise,
    contact_sheet,
    present_ids,
    preview,
)
from segrgbx_core.sensors import EncodingConfig, encode
from training.data.datasets import READERS, Labelled, open_reader, spread
from training.data.datasets.file_reader import FileReader

_MOST_UNMATCHED = 0.01
"""Share of pixels with a colour in no table above which a palette is wrong rather than dirty."""
_SHOWN_PROBLEMS = 10


@dataclass(eq=False)
class Audit:
    """Contents and problems of one split.

    Attributes:
        reader: the split.
        samples: how many were read.
        counts: int64 (256,), pixels per training id; the last is void.
        rgb: sizes and types of RGB.
        x: sizes and types of X.
        x_colours: pixels per colour of the encoded X images, one pixel in sixteen, of 255.
        groups: samples per group.
        problems: what is wrong.
        warnings: what differs from the published data set.
    """

    reader: FileReader
    samples: int = 0
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))
    rgb: Counter[str] = field(default_factory=Counter)
    x: Counter[str] = field(default_factory=Counter)
    x_colours: Counter[tuple[int, ...]] = field(default_factory=Counter)
    groups: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def to_text(self) -> str:
        """The report."""
        title, *description = self.reader.describe().lines()
        lines = [title, "", *self._histogram(), "", *description]
        lines.append(f"read       {self.samples} samples")
        for title, counts in (("RGB", self.rgb), ("X", self.x), ("groups", self.groups)):
            text = ", ".join(f"{name} ({count})" for name, count in counts.most_common(8))
            lines.append(f"{title:<10} {text or 'none'}")
        if self.x_colours and self.reader.has_x:
            colour, share = self._commonest_x()
            lines.append(
                f"X image    commonest colour {colour} of 255 in {100 * share:.1f} % of it"
            )
        for title, texts in (("warning", self.warnings), ("problem", self.problems)):
            lines += [f"{title}: {text}" for text in texts[:_SHOWN_PROBLEMS]]
            if len(texts) > _SHOWN_PROBLEMS:
                lines.append(f"{title}: and {len(texts) - _SHOWN_PROBLEMS} more")
        return "\n".join(lines) + "\n"

    def _commonest_x(self) -> tuple[tuple[int, ...], float]:
        colour, pixels = self.x_colours.most_common(1)[0]
        return colour, pixels / max(1, self.x_colours.total())

    def _histogram(self) -> list[str]:
        space, total = self.reader.space, max(1, int(self.counts.sum()))
        width = max(len(name) for name in (*space.names, "void"))
        rows = [(str(i), space.names[i], self.counts[i]) for i in range(space.num_classes)]
        rows.append((str(VOID), "void", self.counts[VOID]))
        most = max(1, *(int(count) for _, _, count in rows))
        return [
            f"{i:>3} {name:<{width}} {100 * int(count) / total:7.3f} % "
            f"{'#' * round(30 * int(count) / most)}"
            for i, name, count in rows
        ]


def audit(reader: FileReader, samples: int = 0, progress: bool = False) -> Audit:
    """Reads a split and gathers what is in it.

    Args:
        reader: the split.
        samples: how many to read, evenly spread; 0 for all.
        progress: True draws a progress bar.
    """
    audit = Audit(reader, warnings=list(reader.describe().warnings))
    indices = spread(len(reader), samples)
    encoding = EncodingConfig()
    for index in tqdm(indices, unit="sample", disable=not progress, leave=False):
        try:
            item = reader[index]
            x_image = preview(encode(item.sample, encoding, reader.sensor))
        except DataError as error:
            audit.problems.append(str(error))
            continue
        except EncodingError as error:
            files = reader.files[index]
            audit.problems.append(f"{(files.x or (files.rgb,))[0]}: {error}")
            continue
        _add(audit, item, x_image)
    _judge(audit)
    return audit


def _add(audit: Audit, item: Labelled, x_image: Picture) -> None:
    audit.samples += 1
    audit.counts += np.bincount(item.labels.ravel(), minlength=256)
    audit.rgb[_size(item.sample.rgb)] += 1
    if audit.reader.has_x:
        audit.x[_size(item.sample.x)] += 1
    audit.groups.update(item.groups)
    colours, pixels = np.unique(x_image[::4, ::4].reshape(-1, 3), axis=0, return_counts=True)
    for colour, count in zip(colours.tolist(), pixels.tolist(), strict=True):
        audit.x_colours[tuple(colour)] += count
    if (item.labels == VOID).all():
        audit.warnings.append(f"{item.name}: every pixel is void")
    if audit.reader.has_x and (x_image == x_image[0, 0]).all():
        audit.warnings.append(f"{item.name}: X is one colour all over, {x_image[0, 0].tolist()}")
    if (item.sample.rgb == item.sample.rgb[0, 0]).all():
        audit.warnings.append(f"{item.name}: RGB is one colour all over")


def _size(image: Array | Events) -> str:
    if isinstance(image, Events):
        return f"{image.width}x{image.height} events"
    shape = "x".join(map(str, (image.shape[1], image.shape[0], *image.shape[2:])))
    return f"{shape} {image.dtype}"


def _judge(audit: Audit) -> None:
    total = int(audit.counts.sum())
    if not total:
        audit.problems.append("no sample could be read")
        return
    names = audit.reader.space.names
    absent = [name for i, name in enumerate(names) if audit.counts[i] == 0]
    if absent:
        audit.warnings.append(f"{len(absent)} classes do not occur: {', '.join(absent)}")
    unmatched: Mapping[str, int] = getattr(audit.reader, "unmatched", {})
    pixels = sum(unmatched.values())
    if pixels:
        text = (
            f"{pixels} pixels ({100 * pixels / total:.3f} %) in {len(unmatched)} label files have "
            "a colour that is in no table; they are void"
        )
        wrong = pixels / total > _MOST_UNMATCHED
        (audit.problems if wrong else audit.warnings).append(text)


def sheet(reader: FileReader, samples: int = 6) -> Picture:
    """RGB, X image, labels and overlay of evenly spread samples, with a legend.

    Args:
        reader: the split.
        samples: rows.
    """
    palette = reader.space.palette_array()
    encoding, captions, maps = EncodingConfig(), list[str](), list[NDArray[np.uint8]]()
    rows: list[list[Array | None]] = []
    for index in spread(len(reader), samples):
        item = reader[index]
        rgb, labels = item.sample.rgb, item.labels
        x_image = encode(item.sample, encoding, reader.sensor)
        rows.append([rgb, x_image, colourise(labels, palette), blend(rgb, labels, palette, 0.6)])
        captions.append(" ".join((item.name, *item.groups)))
        maps.append(labels)
    description = reader.describe()
    return contact_sheet(
        rows,
        ("RGB", reader.modality.facts.title, "labels", "overlay"),
        captions,
        heading=f"{description.space.name}, {description.split}: "
        f"{description.num_samples} samples",
        note=f"{description.layout}; {description.x}; labels: {description.coding}",
        legend_classes=(description.space.names, palette, present_ids(*maps)),
    )


def shared_ids(audits: Sequence[Audit]) -> list[str]:
    """Problems between splits: samples that are in two of them."""
    problems = []
    for place, one in enumerate(audits):
        for other in audits[:place]:
            shared = sorted(set(one.reader.ids) & set(other.reader.ids))
            if shared:
                names = one.reader.describe().split, other.reader.describe().split
                problems.append(
                    f"{len(shared)} samples are in {names[1]} and {names[0]}, such as {shared[0]}"
                )
    return problems


def open_splits(
    name: str, root: Path, splits: Sequence[str], modality: str, options: Mapping[str, Any]
) -> tuple[list[FileReader], list[str]]:
    """Opens splits of a data set.

    Args:
        name: a key of `READERS` whose samples lie in files.
        root: its folder.
        splits: which; all that the data set publishes when empty.
        modality: name of its X; empty for its usual one.
        options: the data set's own.

    Returns:
        the splits that can be opened, and what is wrong with the others.

    Raises:
        ConfigError: for a split, modality or option that does not exist.
    """
    opens = READERS[name]
    assert isinstance(opens, type)
    assert issubclass(opens, FileReader)
    offered, modalities = opens.offered(root)
    chosen = Modality(modality) if modality else modalities[0]
    readers: list[FileReader] = []
    problems: list[str] = []
    for split in splits or offered:
        try:
            reader = open_reader(name, root, split, chosen, options)
        except DataError as error:
            problems.append(str(error))
            continue
        assert isinstance(reader, FileReader)
        readers.append(reader)
    return readers, problems


def write_audits(folder: Path, name: str, audits: Sequence[Audit], text: str) -> None:
    """Writes the report, and a sheet of samples per split, into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    for audit in audits:
        path = folder / f"{name}_{audit.reader.describe().split}.png"
        try:
            write_image(path, sheet(audit.reader))
        except SegrgbxError as error:
            print(f"no sheet for {path.name}: {error}")
        else:
            print(f"sheet {path}")
