"""Visualisation of labels: colours, overlays, legends and contact sheets.

Pictures are uint8 (H, W, 3) in RGB order. Label maps are uint8 (H, W); palettes are colour tables
uint8 (256, 3) as `labels.palette_array` makes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from segrgbx_core.base.errors import DataError
from segrgbx_core.base.samples import Array
from segrgbx_core.labels.label_space import VOID
from segrgbx_core.labels.tables import Rgb

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Theme:
    """Colours of drawn sheets.

    Attributes:
        background: behind everything.
        panel: edge of a cell, and behind an image that does not fill it.
        text: headings and names.
        muted: captions and notes.
        outline: around the swatches of a legend.
    """

    background: Rgb
    panel: Rgb
    text: Rgb
    muted: Rgb
    outline: Rgb


DARK = Theme((17, 20, 26), (30, 34, 42), (236, 239, 244), (148, 158, 174), (92, 100, 114))
LIGHT = Theme((255, 255, 255), (226, 229, 234), (28, 32, 38), (104, 112, 124), (200, 205, 212))

HEADING_PX, TITLE_PX, BODY_PX = 17, 12, 10
"""Heights of capital letters."""

_MARGIN, _GAP, _RADIUS = 28, 10, 6
_SCALE = 4  # text and corners are drawn this much larger and shrunk: even edges at any size
_FONT = cv2.FONT_HERSHEY_SIMPLEX
# OpenCV 4 draws strokes of a width, OpenCV 5 a typeface of a weight.
_STROKE = 1 if int(cv2.__version__.split(".")[0]) >= 5 else _SCALE


def colourise(labels: NDArray[np.uint8], palette: NDArray[np.uint8]) -> Picture:
    """A label map in the colours of its palette, which make void black as a rule."""
    _check_palette(palette)
    return cv2.applyColorMap(labels, np.ascontiguousarray(palette[:, None]))


def blend(
    rgb: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    palette: NDArray[np.uint8],
    alpha: float = 0.5,
) -> Picture:
    """The RGB image tinted by its labels; void pixels stay as they are.

    Args:
        rgb: uint8 (H, W, 3).
        labels: uint8 (H, W) on the same grid.
        palette: uint8 (256, 3).
        alpha: weight of the label colour in [0, 1].

    Raises:
        DataError: when the sizes differ.
    """
    if rgb.shape[:2] != labels.shape:
        raise DataError(f"labels are {labels.shape} but the image is {rgb.shape[:2]}")
    tinted = cv2.addWeighted(rgb, 1 - alpha, colourise(labels, palette), alpha, 0)
    void = cv2.compare(labels, VOID, cv2.CMP_EQ)
    return cv2.copyTo(rgb, void, tinted)


def preview(x_image: NDArray[np.float32]) -> Picture:
    """An X image as the model sees it.

    Args:
        x_image: float32 (H, W, 3) in [0, 1].
    """
    return cv2.convertScaleAbs(np.fmax(x_image, 0.0), alpha=255.0)


def confidence_image(confidence: NDArray[np.uint8]) -> Picture:
    """Confidence from dark blue (0) over green to yellow (255)."""
    coloured = cv2.applyColorMap(confidence, cv2.COLORMAP_VIRIDIS)
    return cv2.cvtColor(coloured, cv2.COLOR_BGR2RGB)


def present_ids(*label_maps: NDArray[np.uint8]) -> list[int]:
    """The ids in any of the maps, ascending, without void: what a legend must show."""
    counts = sum(np.bincount(labels.ravel(), minlength=256) for labels in label_maps)
    return [int(i) for i in np.flatnonzero(np.broadcast_to(counts, 256)) if i != VOID]


def legend(
    names: Sequence[str] | Mapping[int, str],
    palette: NDArray[np.uint8],
    ids: Sequence[int] | None = None,
    width: int = 960,
    theme: Theme = DARK,
) -> Picture:
    """Swatches with ids and class names in columns.

    Args:
        names: class names by id; a list's positions are ids.
        palette: uint8 (256, 3).
        ids: classes to show, in this order; all when left out.
        width: of the picture, in pixels.
        theme: colours.

    Returns:
        uint8 (as high as needed, width, 3).
    """
    _check_palette(palette)
    every = list(names) if isinstance(names, Mapping) else range(len(names))
    shown = list(every if ids is None else ids)
    swatch, line = 14, 24
    texts = {i: f"{i} {names[i]}" for i in shown}
    longest = max((text_width(text, BODY_PX) for text in texts.values()), default=0)
    columns = max(1, (width + 24) // (swatch + 8 + longest + 24))
    columns = min(columns, max(1, len(shown)))
    step = width // columns
    picture = _canvas(line * -(-len(shown) // columns), width, theme.background)
    for place, i in enumerate(shown):
        top, left = line * (place // columns), step * (place % columns)
        box = _canvas(swatch, swatch, theme.outline)  # dark colours need an edge on dark ground
        _paste(box, _round(_canvas(swatch - 2, swatch - 2, palette[i]), theme.outline, 3), 1, 1)
        _paste(picture, _round(box, theme.background, radius=4), top + 5, left)
        _write(picture, texts[i], top + 5 + swatch // 2, left + swatch + 8, BODY_PX, theme.text)
    return picture


def annotated(
    picture: Picture,
    caption: str,
    classes: tuple[Sequence[str] | Mapping[int, str], NDArray[np.uint8], Sequence[int]],
    least_width: int = 480,
) -> Picture:
    """An overlay with a line below it and the legend of its classes.

    Args:
        picture: uint8 (H, W, 3); enlarged where it is narrower than `least_width`.
        caption: such as what it shows and when.
        classes: names, palette and ids.
        least_width: in pixels.
    """
    width = max(least_width, picture.shape[1])
    return contact_sheet([[picture]], (), [caption], legend_classes=classes, cell_width=width)


def contact_sheet(
    rows: Sequence[Sequence[Array | None]],
    titles: Sequence[str] = (),
    captions: Sequence[str] = (),
    *,
    heading: str = "",
    note: str = "",
    legend_classes: tuple[Sequence[str] | Mapping[int, str], NDArray[np.uint8], Sequence[int]]
    | None = None,
    cell_width: int = 320,
    theme: Theme = DARK,
) -> Picture:
    """Images in rows and columns with titles, captions and a legend.

    Args:
        rows: pictures uint8 (H, W, 3), grey uint8 (H, W) or X images float (H, W, 3); None leaves
            a cell empty. Sizes may differ; all are fitted into equal cells.
        titles: one per column.
        captions: one per row.
        heading: above everything.
        note: small text below the heading, such as where the images come from.
        legend_classes: names, palette and ids for a legend at the bottom.
        cell_width: width of a cell in pixels.
        theme: colours.

    Raises:
        DataError: when there is no image at all.
    """
    cells = [[None if image is None else _as_picture(image) for image in row] for row in rows]
    aspects = [c.shape[0] / c.shape[1] for row in cells for c in row if c is not None]
    if not aspects:
        raise DataError("contact sheet: holds no image")
    height = max(1, round(cell_width * float(np.median(aspects))))
    columns = max(len(titles), *(len(row) for row in cells))
    width = columns * (cell_width + _GAP) - _GAP
    strips = _header(heading, note, width, theme)
    if titles:
        strips.append(_title_strip(titles, cell_width, width, theme))
    for place, row in enumerate(cells):
        strips.append(_row_strip(row, (height, cell_width), width, theme))
        caption = captions[place] if place < len(captions) else ""
        strips.append(_text_strip(caption, width, BODY_PX, theme.muted, theme))
    if legend_classes is not None:
        names, palette, ids = legend_classes
        strips.append(_canvas(10, width, theme.background))
        strips.append(legend(names, palette, ids, width, theme))
    return framed(np.concatenate(strips), theme)


def framed(picture: Picture, theme: Theme = DARK) -> Picture:
    """The picture with a margin of the background's colour."""
    height, width, _ = picture.shape
    page = _canvas(height + 2 * _MARGIN, width + 2 * _MARGIN, theme.background)
    _paste(page, picture, _MARGIN, _MARGIN)
    return page


def text_width(text: str, px: int) -> int:
    """Width in pixels of a line of text with capital letters `px` high."""
    return -(-_text_size(text, px)[0] // _SCALE)


def _header(heading: str, note: str, width: int, theme: Theme) -> list[Picture]:
    strips = []
    if heading:
        strips.append(_text_strip(heading, width, HEADING_PX, theme.text, theme))
    if note:
        strips.append(_text_strip(note, width, BODY_PX, theme.muted, theme))
    if strips:
        strips.append(_canvas(8, width, theme.background))
    return strips


def _title_strip(titles: Sequence[str], cell_width: int, width: int, theme: Theme) -> Picture:
    strip = _canvas(TITLE_PX + 14, width, theme.background)
    for column, title in enumerate(titles):
        left = column * (cell_width + _GAP) + 2
        _write(strip, _shorten(title, TITLE_PX, cell_width), 10, left, TITLE_PX, theme.text)
    return strip


def _row_strip(
    row: Sequence[Picture | None], cell: tuple[int, int], width: int, theme: Theme
) -> Picture:
    strip = _canvas(cell[0], width, theme.background)
    for column, image in enumerate(row):
        if image is None:
            continue
        framed = _canvas(*cell, theme.panel)
        fitted = _fit(image, (cell[0] - 2, cell[1] - 2), theme.panel)
        _paste(framed, _round(fitted, theme.panel, _RADIUS), 1, 1)
        _paste(strip, _round(framed, theme.background, _RADIUS + 1), 0, column * (cell[1] + _GAP))
    return strip


def _text_strip(text: str, width: int, px: int, colour: Rgb, theme: Theme) -> Picture:
    if not text:
        return _canvas(_GAP, width, theme.background)
    strip = _canvas(round(px * 1.4) + 14, width, theme.background)
    _write(strip, _shorten(text, px, width), strip.shape[0] // 2, 2, px, colour)
    return strip


def _as_picture(image: Array) -> Picture:
    if image.dtype.kind == "f":
        image = preview(image)
    if image.ndim == 2 and image.dtype == np.uint8:
        return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise DataError(
            f"contact sheet: shape {image.shape} of {image.dtype} is no picture; "
            f"expected (H, W) or (H, W, 3) of uint8"
        )
    return image


def _fit(image: Picture, cell: tuple[int, int], background: Rgb) -> Picture:
    """The image as large as the cell allows, in its middle."""
    height, width = image.shape[:2]
    scale = min(cell[0] / height, cell[1] / width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    size = (min(size[0], cell[1]), min(size[1], cell[0]))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    resized = cv2.resize(image, size, interpolation=method)
    fitted = _canvas(cell[0], cell[1], background)
    _paste(fitted, resized, (cell[0] - size[1]) // 2, (cell[1] - size[0]) // 2)
    return fitted


def _round(image: Picture, background: Rgb, radius: int) -> Picture:
    """The image with round corners."""
    height, width = image.shape[:2]
    mask = np.zeros((height * _SCALE, width * _SCALE), np.uint8)
    r, bottom, right = radius * _SCALE, height * _SCALE - 1, width * _SCALE - 1
    cv2.rectangle(mask, (r, 0), (right - r, bottom), 255, -1)
    cv2.rectangle(mask, (0, r), (right, bottom - r), 255, -1)
    for centre in ((r, r), (right - r, r), (r, bottom - r), (right - r, bottom - r)):
        cv2.circle(mask, centre, r, 255, -1)
    mask = cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA)
    return _mix(np.full_like(image, background), image, mask)


def _write(picture: Picture, text: str, middle: int, left: int, px: int, colour: Rgb) -> None:
    """Writes a line whose capitals are centred on row `middle`; what does not fit is cut off."""
    if not text:
        return
    width, rise, fall = _text_size(text, px)
    pad = _SCALE * 2
    mask = np.zeros((rise + fall + 2 * pad, width + 2 * pad), np.uint8)
    scale = cv2.getFontScaleFromHeight(_FONT, px * _SCALE, _STROKE)
    cv2.putText(mask, text, (pad, pad + rise), _FONT, scale, 255, _STROKE, cv2.LINE_AA)
    size = (-(-mask.shape[1] // _SCALE), -(-mask.shape[0] // _SCALE))
    mask = cv2.resize(mask, size, interpolation=cv2.INTER_AREA)
    top = middle + px // 2 - round((pad + rise) / _SCALE)
    first = max(0, -top)
    target = picture[max(0, top) : top + mask.shape[0], left : left + mask.shape[1]]
    mask = np.ascontiguousarray(mask[first : first + target.shape[0], : target.shape[1]])
    if mask.size:
        target[:] = _mix(target, np.full_like(target, colour), mask)


def _text_size(text: str, px: int) -> tuple[int, int, int]:
    """Width, rise above and fall below the base line, in enlarged pixels."""
    scale = cv2.getFontScaleFromHeight(_FONT, px * _SCALE, _STROKE)
    (width, rise), fall = cv2.getTextSize(text, _FONT, scale, _STROKE)
    return width, rise + _SCALE, fall + _SCALE


def _shorten(text: str, px: int, width: int) -> str:
    if text_width(text, px) <= width:
        return text
    while text and text_width(f"{text}...", px) > width:
        text = text[:-1].rstrip()
    return f"{text}..."


def _mix(below: Picture, above: Picture, mask: NDArray[np.uint8]) -> Picture:
    weight = mask[..., None].astype(np.float32) / 255
    return np.rint(below + (above.astype(np.float32) - below) * weight).astype(np.uint8)


def _paste(picture: Picture, part: Picture, top: int, left: int) -> None:
    target = picture[top : top + part.shape[0], left : left + part.shape[1]]
    target[:] = part[: target.shape[0], : target.shape[1]]


def _canvas(height: int, width: int, colour: Rgb | NDArray[np.uint8]) -> Picture:
    return np.full((height, width, 3), colour, np.uint8)


def _check_palette(palette: NDArray[np.uint8]) -> None:
    if palette.shape != (256, 3) or palette.dtype != np.uint8:
        raise DataError(
            f"palette: shape {palette.shape} of {palette.dtype}; expected (256, 3) of uint8"
        )
