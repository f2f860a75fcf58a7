"""Labels as annotation tools write and read them: coloured masks, polygons, tags.

Label images are uint8 (H, W); `VOID` marks pixels without a label. Everywhere later shapes lie
over earlier ones.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import count
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segrgbx_core.base.errors import ConfigError, DataError, did_you_mean
from segrgbx_core.base.files import read_json, write_text
from segrgbx_core.base.images import decode_image, read_image, write_image
from segrgbx_core.labels.label_space import VOID
from segrgbx_core.labels.tables import MAX_CLASSES, Rgb

Labels = NDArray[np.uint8]

LABEL_MAP = "labelmap.txt"
MASKS = "SegmentationClass"
_LIST = Path("ImageSets/Segmentation/default.txt")
_BACKGROUND: Rgb = (0, 0, 0)
_VOID_NAMES = ("background", "_background_", "__ignore__", "void", "unlabeled", "unlabelled")
"""Classes of annotation tools that mean: nobody has said what this is."""
_TAG = re.compile(r"task-(\d+)-annotation-(\d+)(?:-by-.*?)?-tag-(.+)-(\d+)")
"""Names that Label Studio gives to brush masks, one file per tag."""


class Format(str, Enum):
    """What an annotation tool has exported."""

    AUTO = "auto"
    """What the folder or file looks like."""
    MASKS = "masks"
    """Label images in colour or by value, with a class list (CVAT's "Segmentation mask")."""
    LABEL_STUDIO = "label_studio"
    """Brush masks as PNG, one per tag, beside the JSON export that names the images."""
    COCO = "coco"
    """One JSON file with polygons or run lengths."""
    LABELME = "labelme"
    """One JSON file per image with polygons."""


@dataclass
class Classes:
    """A class list while it is read: names in the order of their ids, with colours.

    Attributes:
        names: of the classes.
        colours: by name, where one is known.
        grows: True where names that are not listed are added.
    """

    names: list[str] = field(default_factory=list)
    colours: dict[str, Rgb] = field(default_factory=dict)
    grows: bool = True

    def id_of(self, name: str, where: str) -> int:
        """The id of a class, `VOID` for names that mean none.

        Raises:
            DataError: for a name that is not listed, or one too many.
        """
        if name in self.names:
            return self.names.index(name)
        if name.lower() in _VOID_NAMES:
            return VOID
        if not self.grows:
            raise DataError(
                f"{where}: class '{name}' is not in the class list"
                f"{did_you_mean(name, self.names)}; rename it in the tool, or add it to the list"
            )
        if len(self.names) == MAX_CLASSES:
            raise DataError(f"{where}: class '{name}' is one above {MAX_CLASSES}; merge classes")
        self.names.append(name)
        return len(self.names) - 1

    def palette(self) -> list[Rgb]:
        """A colour per class: the known ones, and others far from black and from each other."""
        used = {_BACKGROUND, *self.colours.values()}
        free = (colour for colour in map(_spread_colour, count(1)) if colour not in used)
        return [self.colours.get(name) or next(free) for name in self.names]


def read_class_list(path: Path) -> Classes:
    """A class list: a name a line, with or without a colour.

    `road`, `road:128,64,128` and CVAT's `road:128,64,128::` are understood, and the names may be
    followed by three numbers; lines that begin with # are comments.

    Raises:
        ConfigError: naming file and line.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path}: cannot be read ({reason}); expected a class a line") from None
    classes = Classes(grows=False)
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, colour = _class_line(line, f"{path}, line {number}")
        if name in classes.names:
            raise ConfigError(f"{path}, line {number}: class '{name}' is listed twice")
        if name.lower() not in _VOID_NAMES:
            classes.names.append(name)
        if colour is not None:
            classes.colours[name] = colour
    if not classes.names:
        raise ConfigError(f"{path}: lists no class")
    return classes


def _class_line(line: str, where: str) -> tuple[str, Rgb | None]:
    match = re.fullmatch(r"\s*(.+?)\s*[:,;\s]\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*(?:[:].*)?", line)
    if match is None:
        return line.split(":")[0].strip(), None
    red, green, blue = (int(part) for part in match.groups()[1:])
    if max(red, green, blue) > 255:
        raise ConfigError(f"{where}: colour {red},{green},{blue} is not three values in [0, 255]")
    return match[1].rstrip(":"), (red, green, blue)


def _spread_colour(number: int) -> Rgb:
    hue = int(number * 0.618034 * 180) % 180
    light = (255, 190, 130)[number % 3]
    pixel = np.array([[[hue, 200 - 40 * (number % 2), light]]], np.uint8)
    red, green, blue = cv2.cvtColor(pixel, cv2.COLOR_HSV2RGB)[0, 0].tolist()
    return red, green, blue


class DraftWriter:
    """Writes drafts in CVAT's layout "Segmentation mask 1.1", which `read_masks` reads again.

    Args:
        folder: for `labelmap.txt`, `SegmentationClass/` and the list of images.
        names: of the classes.
        palette: a colour per class; black, which means none, and repeated ones become others.

    Attributes:
        palette: the colours that drafts have.
    """

    def __init__(self, folder: Path, names: Sequence[str], palette: Sequence[Rgb]) -> None:
        colours = {
            name: colour
            for name, colour in zip(names, palette, strict=True)
            if colour != _BACKGROUND and list(palette).count(colour) == 1
        }
        self._folder, self._classes = folder, Classes(list(names), colours)
        self._table = np.zeros((256, 3), np.uint8)
        self.palette = self._classes.palette()
        self._table[: len(names)] = self.palette
        self._stems: list[str] = []
        self._seen: set[int] = set()

    def add_labels(self, stem: str, labels: Labels) -> None:
        """Writes one draft."""
        path = self._folder / MASKS / f"{stem}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, self._table[labels])
        self._stems.append(stem)
        self._seen.update(int(i) for i in np.unique(labels) if i != VOID)

    def finish(self) -> None:
        """Writes the list of the classes that occur, and that of the images."""
        lines = ["# label:color_rgb:parts:actions", "background:0,0,0::"]
        for place in sorted(self._seen):
            colour = ",".join(map(str, self.palette[place]))
            lines.append(f"{self._classes.names[place]}:{colour}::")
        write_text(self._folder / LABEL_MAP, "\n".join(lines) + "\n")
        write_text(self._folder / _LIST, "".join(f"{stem}\n" for stem in self._stems))


def guess_format(path: Path) -> Format:
    """The format of an export by what is in it.

    Raises:
        ConfigError: when it looks like none.
    """
    if path.is_file() and path.suffix.lower() == ".json":
        data = read_json(path)
        if isinstance(data, Mapping) and "annotations" in data:
            return Format.COCO
        if isinstance(data, Mapping) and "shapes" in data:
            return Format.LABELME
    if path.is_dir():
        names = [file.name for file in path.rglob("*") if file.is_file()]
        if any(_TAG.search(name) for name in names):
            return Format.LABEL_STUDIO
        if any(name.endswith(".png") for name in names):
            return Format.MASKS
        files = sorted(path.rglob("*.json"))
        if files:
            return guess_format(files[0])
    raise ConfigError(
        f"{path}: is none of the known exports; name it with --format: "
        f"{', '.join(one.value for one in Format if one is not Format.AUTO)}"
    )


def read_masks(path: Path, classes: Classes) -> Iterator[tuple[str, Labels]]:
    """Label images of a folder: coloured where the class list has colours, else values.

    Values are positions in the class list, 255 is void. Black is void where no class has it.

    Args:
        path: folder with the images, or with CVAT's `SegmentationClass`.
        classes: the class list.

    Yields:
        stem and label ids of each image.

    Raises:
        DataError: naming the file with a colour or value of no class.
    """
    folder = path / MASKS if (path / MASKS).is_dir() else path
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() == ".png")
    if not files:
        raise DataError(f"{folder}: holds no .png; expected one label image per RGB image")
    if not classes.names:
        raise DataError(
            f"{path}: masks need a class list, and there is no {LABEL_MAP}; give one with "
            "--classes"
        )
    in_colour = all(name in classes.colours for name in classes.names)
    for file in files:
        picture = _coloured(file) if in_colour else _values(file)
        if picture.ndim == 3:
            yield file.stem, _ids_of_colours(picture, classes, file)
        else:
            yield file.stem, _ids_of_values(picture, classes, file)


def _coloured(file: Path) -> NDArray[Any]:
    """A label image in the colours that a viewer shows."""
    try:
        with Image.open(file) as image:
            if image.mode == "P":
                return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError):
        pass  # OpenCV may read it all the same; its error names the file
    picture = read_image(file)
    return picture if picture.ndim == 2 else picture[..., :3]


def _values(file: Path) -> NDArray[Any]:
    try:
        with Image.open(file) as image:
            if image.mode == "P":
                return np.asarray(image)
    except (OSError, SyntaxError, ValueError):
        pass
    picture = read_image(file)
    if picture.ndim == 2:
        return picture
    if not (picture[..., :1] == picture[..., :3]).all():
        raise DataError(
            f"{file}: shows colours, and the class list has none for each class; give one with "
            "--classes, such as the tool's labelmap.txt"
        )
    return np.ascontiguousarray(picture[..., 0])


def _ids_of_colours(picture: NDArray[Any], classes: Classes, file: Path) -> Labels:
    packed = picture.astype(np.int64) @ [1 << 16, 1 << 8, 1]
    labels = np.full(packed.shape, VOID, np.uint8)
    known = np.zeros(packed.shape, bool)
    for name, colour in {"background": _BACKGROUND, **classes.colours}.items():
        is_class = packed == np.asarray(colour) @ [1 << 16, 1 << 8, 1]
        labels[is_class] = classes.id_of(name, str(file))
        known |= is_class
    if not known.all():
        values, counts = np.unique(packed[~known], return_counts=True)
        worst = int(values[counts.argmax()])
        raise DataError(
            f"{file}: colour {[worst >> 16, worst >> 8 & 255, worst & 255]} ({counts.max()} "
            "pixels) is that of no class in the list; is it the list of this export?"
        )
    return labels


def _ids_of_values(picture: NDArray[Any], classes: Classes, file: Path) -> Labels:
    foreign = (picture >= len(classes.names)) & (picture != VOID)
    if foreign.any():
        value = int(picture[foreign].max())
        raise DataError(
            f"{file}: value {value} ({int((picture == value).sum())} pixels) is no position in "
            f"the list of {len(classes.names)} classes, nor {VOID}"
        )
    return picture.astype(np.uint8)


def read_coco(path: Path, classes: Classes) -> Iterator[tuple[str, Labels]]:
    """Label images from a COCO file: polygons and run lengths, in the order of the file.

    Yields, raises: as `read_masks`.
    """
    path = path if path.is_file() else _only_json(path)
    data = read_json(path)
    try:
        names = {entry["id"]: entry["name"] for entry in data["categories"]}
        shapes: dict[Any, list[Any]] = {entry["id"]: [] for entry in data["images"]}
        for name in names.values():
            classes.id_of(name, str(path))
        for entry in data["annotations"]:
            if entry["image_id"] not in shapes:
                raise DataError(f"{path}: annotation {entry.get('id')} is of no image in the file")
            shapes[entry["image_id"]].append(entry)
        for image in data["images"]:
            labels = np.full((int(image["height"]), int(image["width"])), VOID, np.uint8)
            for entry in shapes[image["id"]]:
                where = f"{path}: annotation {entry.get('id')}"
                place = classes.id_of(names[entry["category_id"]], where)
                _draw_coco(labels, entry["segmentation"], place, where)
            yield Path(image["file_name"]).stem, labels
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: is no COCO file ({type(error).__name__}: {error})") from None


def _draw_coco(labels: Labels, shape: Any, place: int, where: str) -> None:
    if isinstance(shape, list):
        _draw_polygons(labels, [np.reshape(part, (-1, 2)) for part in shape], place)
        return
    runs, size = shape["counts"], shape["size"]
    if tuple(size) != labels.shape:
        raise DataError(f"{where}: run lengths are of {size}, the image of {labels.shape}")
    if isinstance(runs, str):
        try:
            from pycocotools import mask  # noqa: PLC0415 - few exports are compressed
        except ImportError:
            raise DataError(
                f"{where}: has compressed run lengths; install pycocotools, or export polygons"
            ) from None
        labels[mask.decode(shape) > 0] = place
        return
    values = np.repeat(np.arange(len(runs)) % 2, runs)
    if values.size != labels.size:
        raise DataError(f"{where}: run lengths sum to {values.size}, not {labels.size}")
    labels[values.reshape(labels.shape, order="F") > 0] = place


def read_labelme(path: Path, classes: Classes) -> Iterator[tuple[str, Labels]]:
    """Label images from LabelMe files: polygons, rectangles, circles and masks.

    Yields, raises: as `read_masks`.
    """
    files = [path] if path.is_file() else sorted(path.rglob("*.json"))
    for file in files:
        data = read_json(file)
        try:
            labels = np.full((int(data["imageHeight"]), int(data["imageWidth"])), VOID, np.uint8)
            for number, shape in enumerate(data["shapes"]):
                where = f"{file}: shape {number}"
                place = classes.id_of(shape["label"], where)
                _draw_labelme(labels, shape, place, where)
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(
                f"{file}: is no LabelMe file ({type(error).__name__}: {error})"
            ) from None
        # imagePath is a Windows path where LabelMe ran there.
        yield Path(str(data.get("imagePath") or file).replace("\\", "/")).stem, labels


def _draw_labelme(labels: Labels, shape: Mapping[str, Any], place: int, where: str) -> None:
    points, kind = np.reshape(shape["points"], (-1, 2)), shape.get("shape_type", "polygon")
    if kind == "polygon":
        _draw_polygons(labels, [points], place)
    elif kind == "rectangle":
        (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
        corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
        _draw_polygons(labels, [np.array(corners)], place)
    elif kind == "circle":
        radius = float(np.hypot(*(points[1] - points[0])))
        cv2.circle(labels, _pixel(points[0]), round(radius), place, cv2.FILLED)
    elif kind == "mask":
        stamp = decode_image(base64.b64decode(shape["mask"]), where)
        left, top = _pixel(points.min(axis=0))
        part = labels[top : top + stamp.shape[0], left : left + stamp.shape[1]]
        part[stamp[: part.shape[0], : part.shape[1]] > 0] = place
    else:
        raise DataError(f"{where}: a {kind} has no area; draw polygons, rectangles or masks")


def _draw_polygons(labels: Labels, polygons: Iterable[NDArray[Any]], place: int) -> None:
    """Fills the pixels whose centres lie in polygons; corners are px from the image's corner.

    OpenCV fills what a polygon touches, half a pixel too much on each side; drawn four times as
    large and sampled at the centres, that is an eighth of a pixel.
    """
    height, width = labels.shape
    for points in polygons:
        corners = np.asarray(points, np.float64)
        if len(corners) < 3:
            continue
        left, top = np.clip(np.floor(corners.min(axis=0)), 0, (width, height)).astype(int)
        right, bottom = np.clip(np.ceil(corners.max(axis=0)), 0, (width, height)).astype(int)
        if right <= left or bottom <= top:
            continue
        canvas = np.zeros((4 * (bottom - top), 4 * (right - left)), np.uint8)
        fine = np.round((corners - (left, top)) * 4).astype(np.int32)
        cv2.fillPoly(canvas, [fine], 1)
        labels[top:bottom, left:right][canvas[2::4, 2::4] > 0] = place


def _pixel(point: NDArray[Any]) -> tuple[int, int]:
    return round(float(point[0])), round(float(point[1]))


def read_label_studio(path: Path, classes: Classes) -> Iterator[tuple[str, Labels]]:
    """Label images from Label Studio's brush masks, with the JSON export for the images' names.

    Yields, raises: as `read_masks`.
    """
    tags: dict[int, list[tuple[str, int, Path]]] = {}
    for file in sorted(path.rglob("*.png")):
        match = _TAG.search(file.stem)
        if match:
            entry = match[3], int(match[4]), file
            tags.setdefault(int(match[1]), []).append(entry)
    names = _label_studio_images(path)
    for task, entries in tags.items():
        if task not in names:
            raise DataError(
                f"{entries[0][2]}: task {task} is in no JSON export in {path}; export JSON, too, "
                "and put it beside the masks: it names the images"
            )
        labels: Labels | None = None
        for tag, _, file in sorted(entries, key=lambda entry: entry[1]):
            mask = read_image(file)
            mask = mask if mask.ndim == 2 else mask[..., -1]
            labels = np.full(mask.shape, VOID, np.uint8) if labels is None else labels
            if mask.shape != labels.shape:
                raise DataError(f"{file}: is {mask.shape}, other tags of the task {labels.shape}")
            labels[mask > 127] = classes.id_of(tag, str(file))
        assert labels is not None
        yield names[task], labels


def _label_studio_images(path: Path) -> dict[int, str]:
    """Stem of the image of each task; uploads carry eight digits and a dash before it."""
    names = {}
    for file in sorted(path.rglob("*.json")):
        data = read_json(file)
        for task in data if isinstance(data, list) else [data]:
            values = task.get("data", task) if isinstance(task, Mapping) else {}
            place = next((v for v in values.values() if isinstance(v, str) and "." in v), None)
            if place and "id" in task:
                stem = Path(place.split("?")[0]).stem
                names[int(task["id"])] = re.sub(r"^[0-9a-f]{8}-", "", stem)
    return names


READERS = {
    Format.MASKS: read_masks,
    Format.COCO: read_coco,
    Format.LABELME: read_labelme,
    Format.LABEL_STUDIO: read_label_studio,
}


def _only_json(folder: Path) -> Path:
    files = sorted(folder.rglob("*.json"))
    if len(files) != 1:
        raise DataError(f"{folder}: holds {len(files)} .json files; name the one to read")
    return files[0]
