"""Draws docs/images/architecture.png from the imports of the source; `make docs` calls it."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

from architecture import COMMANDS, ORDER, Arrow, Group, arrows, groups
from import_graph import ROOT
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from PIL import Image

PICTURE = ROOT / "docs" / "images" / "architecture.png"
PURPOSE = {
    "segrgbx_ros": "knows topics, messages, recordings",
    "segrgbx_core": "needed to use a checkpoint",
    "training": "needed to make a checkpoint",
}
# Inches throughout; y grows downwards.
COLUMN, GAP, MARGIN = 4.7, 1.6, 0.75
TOP, BETWEEN, LINE, PAD, HEAD = 1.2, 0.34, 0.165, 0.1, 0.52
NAME_PT, TITLE_PT, PURPOSE_PT = 8.0, 10.5, 8.5
LETTERS = 72
"""Of a purpose that fit into a box."""
# An advance of the monospaced font, in parts of its size.
ADVANCE = 0.602
NUMPY_RING, TORCH_RING = ("#e3eefb", "#1c5a9c"), ("#fdeedd", "#b4560f")
INK, CROSSING = "#555555", "#202020"


@dataclass
class Box:
    """A group with its place.

    Attributes:
        group: what it shows.
        x: left side.
        y: upper side.
        rows: names with the column that each starts in, by line.
        ends: arrows that touch a side, by side, as what they come from or go to.
    """

    group: Group
    x: float
    y: float
    rows: list[list[tuple[str, int, bool]]]
    ends: dict[str, list[tuple[float, Arrow]]] = field(default_factory=dict)

    @property
    def height(self) -> float:
        """Height that the title and the names need."""
        return HEAD + LINE * len(self.rows) + PAD

    @property
    def middle(self) -> float:
        """Half way down the box."""
        return self.y + self.height / 2

    @property
    def is_heavy(self) -> bool:
        """True where most members reach torch."""
        return 2 * len(self.group.heavy) > len(self.group.members)


def rows_of(group: Group) -> list[list[tuple[str, int, bool]]]:
    """Names broken into lines: text, column, and whether importing it imports torch."""
    width = int((COLUMN - 2 * PAD) / (ADVANCE * NAME_PT / 72))
    names = [name.removeprefix(f"{group.title}.") for name in group.members]
    folders = {name for name in names for other in names if other.startswith(f"{name}.")}
    rows: list[list[tuple[str, int, bool]]] = [[]]
    column = 0
    for name, module in zip(names, group.members, strict=True):
        parent, _, last = name.rpartition(".")
        word = f"{last}/" if name in folders else last if parent in folders else name
        if column + len(word) > width:
            rows.append([])
            column = 0
        rows[-1].append((word, column, module in group.heavy))
        column += len(word) + 2
    return rows


def place() -> list[Box]:
    """One box per group, in a column per package, from top to bottom."""
    boxes = []
    for number, package in enumerate(ORDER):
        y = TOP
        for group in groups():
            if group.package == package:
                x = MARGIN + number * (COLUMN + GAP)
                boxes.append(Box(group, x, y, rows_of(group)))
                y += boxes[-1].height + BETWEEN
    by_group = {id(box.group): box for box in boxes}
    return [by_group[id(group)] for group in groups()]


def sides(one: Box, other: Box, boxes: list[Box]) -> tuple[str, str]:
    """The sides at which an arrow leaves a box and meets the other."""
    if one.x != other.x:
        return ("right", "left") if one.x < other.x else ("left", "right")
    column = sorted(box.y for box in boxes if box.x == one.x)
    steps = column.index(other.y) - column.index(one.y)
    if abs(steps) == 1:
        return ("bottom", "top") if steps == 1 else ("top", "bottom")
    outer = "left" if one.group.package == "segrgbx_ros" else "right"
    return outer, outer


def title_of(group: Group) -> str:
    """Name of a folder with its slash, of a module with its ending."""
    if group.title == COMMANDS:
        return COMMANDS
    return f"{group.title}.py" if group.members == (group.title,) else f"{group.title}/"


def shortened(purpose: str) -> str:
    """A sentence without the last of its clauses, as many as do not fit into a box."""
    text = purpose.replace("`", "")
    while len(text) > LETTERS or text.count("(") != text.count(")"):
        text = text.rpartition(",")[0]
    return text


def draw_box(axes: Axes, box: Box) -> None:
    """The box with its title, its libraries and its modules."""
    fill, edge = TORCH_RING if box.is_heavy else NUMPY_RING
    style = "round,pad=0,rounding_size=0.08"
    axes.add_patch(
        FancyBboxPatch(
            (box.x, box.y), COLUMN, box.height, style, facecolor=fill, edgecolor=edge, zorder=2
        )
    )
    left, upper = box.x + PAD, box.y + 0.2
    title, purpose = title_of(box.group), shortened(box.group.purpose)
    axes.text(left, upper, title, size=TITLE_PT, weight="bold", va="center", zorder=3)
    axes.text(left, box.y + 0.39, purpose, size=PURPOSE_PT, va="center", zorder=3)
    axes.text(
        box.x + COLUMN - PAD, upper, " ".join(box.group.libraries),
        size=NAME_PT - 0.5, style="italic", color=INK, ha="right", va="center", zorder=3,
    )  # fmt: skip
    for number, row in enumerate(box.rows):
        for word, column, is_heavy in row:
            axes.text(
                left + column * ADVANCE * NAME_PT / 72, box.y + HEAD + 0.08 + LINE * number, word,
                family="DejaVu Sans Mono", size=NAME_PT, va="center", zorder=3,
                color=(TORCH_RING if is_heavy else NUMPY_RING)[1],
            )  # fmt: skip


def draw_arrows(axes: Axes, boxes: list[Box]) -> None:
    """Every arrow, with its ends spread along the sides that it touches."""
    routes = {arrow: sides(boxes[arrow.source], boxes[arrow.target], boxes) for arrow in arrows()}
    for arrow, (from_side, to_side) in routes.items():
        one, other = boxes[arrow.source], boxes[arrow.target]
        one.ends.setdefault(from_side, []).append((other.middle, arrow))
        other.ends.setdefault(to_side, []).append((one.middle, arrow))
    for arrow, (from_side, to_side) in routes.items():
        one, other = boxes[arrow.source], boxes[arrow.target]
        bend = 0.0
        if from_side == to_side:
            far = abs(other.middle - one.middle)
            bend = min(0.3, 0.6 / far) * (1 if from_side == "left" else -1)
        axes.add_patch(
            FancyArrowPatch(
                end(one, from_side, arrow), end(other, to_side, arrow),
                connectionstyle=f"arc3,rad={bend}", arrowstyle="-|>", mutation_scale=11,
                color=CROSSING if one.x != other.x else INK, linewidth=1.1, zorder=1,
                linestyle=":" if arrow.is_late else "-", shrinkA=0, shrinkB=1,
            )
        )  # fmt: skip


def end(box: Box, side: str, arrow: Arrow) -> tuple[float, float]:
    """Where on a side of a box an arrow ends."""
    order = sorted(box.ends[side], key=lambda one: one[0])
    share = ([one for _, one in order].index(arrow) + 1) / (len(order) + 1)
    if side in ("top", "bottom"):
        return box.x + share * COLUMN, box.y + (box.height if side == "bottom" else 0)
    return box.x + (COLUMN if side == "right" else 0), box.y + share * box.height


def draw_rings(axes: Axes, boxes: list[Box]) -> None:
    """A line between the rings of each package whose groups stand in that order."""
    for left in sorted({box.x for box in boxes}):
        column = [box for box in boxes if box.x == left]
        heavy = [box.is_heavy for box in column]
        if heavy == sorted(heavy, reverse=True) and len(set(heavy)) == 2:
            above = column[sum(heavy) - 1]
            y = above.y + above.height + BETWEEN / 2
            axes.plot(
                [left - 0.2, left + COLUMN + 0.2], [y, y], "--", color=INK, lw=1.3, zorder=0.5
            )


def draw_frame(axes: Axes, width: float, height: float) -> None:
    """Names of the packages, what colours and arrows mean."""
    for number, package in enumerate(ORDER):
        left = MARGIN + number * (COLUMN + GAP)
        middle = left + COLUMN / 2
        axes.add_patch(
            FancyBboxPatch(
                (left - 0.2, 0.2), COLUMN + 0.4, height - 0.9, "round,pad=0,rounding_size=0.15",
                facecolor="#f6f6f4", edgecolor="#d5d5d0", zorder=0,
            )
        )  # fmt: skip
        axes.text(middle, 0.5, package, size=17, weight="bold", ha="center", va="center")
        axes.text(middle, 0.86, PURPOSE[package], size=11.5, color=INK, ha="center", va="center")
    y = height - 0.3
    texts = (
        (NUMPY_RING, "numpy ring: starts in well under a second"),
        (TORCH_RING, "torch ring: importing it imports torch, which takes seconds"),
    )
    x = MARGIN
    for (fill, edge), text in texts:
        axes.add_patch(Rectangle((x, y - 0.1), 0.3, 0.2, facecolor=fill, edgecolor=edge))
        axes.text(x + 0.4, y, text, size=10, va="center", color=edge)
        x += 1.0 + 0.077 * len(text)
    rule = "Neither outer package imports the other,\nand segrgbx_core imports neither."
    axes.text(
        MARGIN + COLUMN / 2, height - 1.3, rule, size=11, ha="center", va="center", color=INK
    )
    note = "arrows: imports; those that follow from others are left out; dotted: only when needed"
    axes.text(width - MARGIN, y, note, size=10, va="center", ha="right", color=INK)


def main() -> int:
    """Writes the picture."""
    boxes = place()
    width = 2 * MARGIN + 3 * COLUMN + 2 * GAP
    height = max(box.y + box.height for box in boxes) + 0.9
    figure = Figure(figsize=(width, height), dpi=100)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    draw_frame(axes, width, height)
    for box in boxes:
        draw_box(axes, box)
    draw_rings(axes, boxes)
    draw_arrows(axes, boxes)
    canvas.draw()
    picture = Image.frombuffer("RGBA", canvas.get_width_height(), canvas.buffer_rgba())
    picture.convert("RGB").quantize(64).save(PICTURE, optimize=True)
    print(PICTURE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
