"""Brings labels from annotation tools into a data set of one's own.

    segrgbx-labels import EXPORT --into DATA [--classes FILE] [--format FORMAT]

EXPORT is what the tool wrote: a folder or .zip of masks with a class list (CVAT's "Segmentation
mask", or any PNG files with --classes), of Label Studio's brush masks with its JSON export, a COCO
file, LabelMe files. DATA is a folder as `segrgbx-extract` writes it. Labels become
`labels/<stem>.png`, and the classes are written into `dataset.yaml` where it has none yet.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from segrgbx_core.base.config import read_mapping
from segrgbx_core.base.errors import ConfigError, DataError, command
from segrgbx_core.base.files import path_text, write_text
from segrgbx_core.base.overrides import CommandParser
from segrgbx_core.base.tables import markdown_table, percent
from segrgbx_core.labels.label_space import VOID
from segrgbx_core.labels.tables import UNIFIED_NAMES
from segrgbx_ros.tools.annotations import (
    LABEL_MAP,
    READERS,
    Classes,
    Format,
    Labels,
    guess_format,
    read_class_list,
)

FILE_NAME = "dataset.yaml"
NO_CLASSES = "# No classes yet: `segrgbx-labels import` adds them with the labels."
"""Line of a `dataset.yaml` that goes when classes come."""


@command()
def main(argv: Sequence[str] | None = None) -> int:
    """Command line; 2 for a user error."""
    options = _parser().parse_args(argv)
    root = Path(options.into)
    with tempfile.TemporaryDirectory() as scratch:
        export = _unpacked(Path(options.export), Path(scratch))
        form = Format(options.format)
        form = guess_format(export) if form is Format.AUTO else form
        stated = _stated_classes(root)
        classes = _classes(export, options.classes, stated)
        background = (
            classes.id_of(options.background, "--background") if options.background else VOID
        )
        counts = np.zeros(256, np.int64)
        number = 0
        found = READERS[form](export, classes)
        for stem, labels in tqdm(found, unit="image", desc="labels", leave=False):
            labels = np.where(labels == VOID, np.uint8(background), labels)
            _write(root, _image(root, stem, str(export)), labels, classes)
            counts += np.bincount(labels.ravel(), minlength=256)
            number += 1
    if not number:
        raise DataError(f"{options.export}: holds no labels")
    if not stated:
        write_classes(root, classes)
    _report(number, counts, classes, form)
    return 0


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="segrgbx-labels",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="import")
    add = actions.add_parser("import", help="read an export").add_argument
    add("export", type=path_text, help="what the tool wrote: a file, a folder or a .zip")
    add("--into", type=path_text, required=True, help="the data set's folder")
    add("--format", default=Format.AUTO.value, choices=[one.value for one in Format])
    add(
        "--classes",
        type=path_text,
        default="",
        help="class list, a name a line, with its colour as name:r,g,b where masks are coloured; "
        "left out: the export's own, or that of dataset.yaml",
    )
    add("--background", default="", help="class of pixels that nobody has labelled; else void")
    return parser


def _unpacked(export: Path, scratch: Path) -> Path:
    if not export.exists():
        raise ConfigError(f"{export}: does not exist; check the path")
    if export.suffix.lower() != ".zip":
        return export
    try:
        with zipfile.ZipFile(export) as archive:
            archive.extractall(scratch)  # names are made safe by zipfile itself
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{export}: cannot be unpacked ({error})") from None
    return scratch


def _stated_classes(root: Path) -> list[dict[str, Any]]:
    """The classes of a `dataset.yaml`, none where it has none yet."""
    data = read_mapping(root / FILE_NAME)
    rows = data.get("classes") or []
    if not all(isinstance(row, dict) and "name" in row for row in rows):
        raise ConfigError(f"{root / FILE_NAME}: classes: an entry has no name")
    return list(rows)


def _classes(export: Path, listed: str, stated: Sequence[dict[str, Any]]) -> Classes:
    """Names and colours to read with: of the data set, whose ids hold, and of the export."""
    own = next(export.rglob(LABEL_MAP), None) if export.is_dir() else None
    path = Path(listed) if listed else own
    found = read_class_list(path) if path else Classes()
    if not stated:
        return found
    names = [row["name"] for row in stated]
    unknown = [name for name in found.names if name not in names]
    if unknown and listed:
        raise ConfigError(f"{listed}: class '{unknown[0]}' is not in {FILE_NAME}; use one list")
    return Classes(names, found.colours, grows=False)


def _image(root: Path, stem: str, export: str) -> Path:
    """The RGB image that labels belong to."""
    folder = root / "rgb"
    found = next((path for path in (folder.glob(f"{stem}.*") if folder.is_dir() else ())), None)
    if found is None:
        raise DataError(
            f"{export}: has labels for '{stem}', and {folder} no image of that name; keep the "
            "names that images had when they were uploaded"
        )
    return found


def _write(root: Path, image: Path, labels: Labels, classes: Classes) -> None:
    """Writes labels as an indexed PNG of ids; refuses labels of another size than the image."""
    with Image.open(image) as opened:
        width, height = opened.size
    if labels.shape != (height, width):
        raise DataError(
            f"{image}: is {width}x{height} and its labels {labels.shape[1]}x{labels.shape[0]}; "
            "export labels at the size of the image"
        )
    folder = root / "labels"
    folder.mkdir(exist_ok=True)
    picture = Image.fromarray(labels, mode="P")
    table = np.zeros((256, 3), np.uint8)
    table[: len(classes.names)] = classes.palette()
    picture.putpalette(table.ravel().tolist())
    picture.save(folder / f"{image.stem}.png")


def write_classes(root: Path, classes: Classes) -> None:
    """Adds the classes to the end of a `dataset.yaml`; a unified one of a name is offered."""
    rows = ["", "classes:"]
    for place, (name, colour) in enumerate(zip(classes.names, classes.palette(), strict=True)):
        shared = f", unified: {_quoted(name)}" if name in UNIFIED_NAMES else ""
        rows.append(
            f"  - {{name: {_quoted(name)}, value: {place}, color: {list(colour)}{shared}}}"
        )
    path = root / FILE_NAME
    lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    kept = [line for line in lines if line != NO_CLASSES]
    write_text(path, "\n".join([*kept, *rows, f"ignore: [{VOID}]"]) + "\n")


def _quoted(name: str) -> str:
    return "'" + name.replace("'", "''") + "'"


def _report(number: int, counts: np.ndarray[Any, Any], classes: Classes, form: Format) -> None:
    total = max(1, int(counts.sum()))
    rows = [
        (name, percent(int(counts[place]) / total, 3)) for place, name in enumerate(classes.names)
    ]
    rows.append(("void", percent(int(counts[VOID]) / total, 3)))
    print(f"{number} label images ({form.value})")
    print(markdown_table(("class", "pixels %"), rows, padded=True))


if __name__ == "__main__":
    sys.exit(main())
