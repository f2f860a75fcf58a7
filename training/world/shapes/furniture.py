"""Furniture of rooms as pieces; backs stand at +y, widths run along x."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from training.world.rays.vectors import Floats
from training.world.shapes.geometry import block, box, ellipsoid, join, tube
from training.world.shapes.objects import Pieces
from training.world.surfaces.climate import Climate
from training.world.surfaces.materials import Colour, PartTable, Pattern

CLOTHS: tuple[Colour, ...] = (
    (0.30, 0.07, 0.06), (0.07, 0.12, 0.28), (0.12, 0.22, 0.12), (0.36, 0.33, 0.28),
    (0.08, 0.08, 0.09), (0.42, 0.28, 0.10), (0.24, 0.14, 0.26),
)  # fmt: skip
WOODS: tuple[Colour, ...] = (
    (0.30, 0.18, 0.09),
    (0.16, 0.09, 0.05),
    (0.48, 0.36, 0.22),
    (0.60, 0.59, 0.57),
)


class Kit:
    """Makes parts of named classes, temperatures relative to the air."""

    def __init__(
        self,
        parts: PartTable,
        climate: Climate,
        rng: np.random.Generator,
        label: Callable[[str], int],
    ) -> None:
        self.parts, self.climate, self.rng, self._label = parts, climate, rng, label

    def part(
        self,
        name: str,
        colour: Colour | Floats,
        pattern: Pattern = Pattern.PLAIN,
        **properties: Any,
    ) -> int:
        """A surface; `kelvin` is the difference from the air's temperature."""
        kelvin = self.climate.air_kelvin + properties.pop("kelvin", 0.0)
        properties.setdefault("instance", self.parts.next_instance())
        red, green, blue = (float(value) for value in colour)
        properties |= {"kelvin": kelvin, "sun_kelvin": 0.0}
        return self.parts.surface(self._label(name), (red, green, blue), pattern, **properties)

    def wood(self, name: str) -> int:
        """A wooden surface, sometimes painted and glossy."""
        tone = np.array(WOODS[int(self.rng.integers(len(WOODS)))]) * self.rng.uniform(0.8, 1.2)
        ior = 1.5 if self.rng.uniform() < 0.3 else 1.0
        return self.part(name, tone, Pattern.WOOD, ior=ior, emissivity=0.9)

    def cloth(self, name: str, folded: bool = False, **properties: Any) -> int:
        """A cloth surface."""
        tone = np.array(CLOTHS[int(self.rng.integers(len(CLOTHS)))]) * self.rng.uniform(0.7, 1.4)
        return self.part(name, tone, Pattern.CLOTH, params=(1.0 if folded else 0.0,), **properties)


def window(kit: Kit, place: tuple[float, float], side: int, bright: Colour) -> Pieces:
    """A window in a long wall: pane with the light outside, frame, curtains, a warm radiator."""
    x, y = place
    inner = y - side * 0.03
    cold = -9.0 if kit.climate.lamps_on else -5.0
    pane = kit.part(
        "window", (0.02, 0.02, 0.025), ior=1.5, emission=bright, kelvin=cold, emissivity=0.86
    )
    frame = kit.part("window", (0.7, 0.7, 0.68), kelvin=cold * 0.4)
    bars = [box((x + dx, inner, 1.5), (0.07, 0.09, 1.4)) for dx in (-0.75, 0.0, 0.75)]
    bars += [box((x, inner, z), (1.57, 0.09, 0.07)) for z in (0.83, 2.17)]
    pieces: Pieces = [(box((x, y, 1.5), (1.5, 0.05, 1.3)), pane), (join(bars), frame)]
    if kit.rng.uniform() < 0.75:
        cloth = kit.cloth("curtain", folded=True, kelvin=-1.5)
        hangs = [box((x + dx, y - side * 0.09, 1.35), (0.5, 0.06, 2.1)) for dx in (-0.98, 0.98)]
        pieces.append((join(hangs), cloth))
    heater = kit.part("otherstructure", (0.68, 0.68, 0.66), kelvin=kit.rng.uniform(8, 24))
    pieces.append((box((x, y - side * 0.08, 0.4), (1.2, 0.1, 0.5)), heater))
    return pieces


def door(kit: Kit, x: float, y: float) -> Pieces:
    """A closed door in the far wall."""
    leaf, frame = kit.wood("door"), kit.part("door", (0.6, 0.58, 0.54))
    knob = kit.part("door", (0.5, 0.45, 0.3), emissivity=0.3)
    posts = [box((x, y + dy, 1.04), (0.09, 0.1, 2.08)) for dy in (-0.5, 0.5)]
    posts.append(box((x, y, 2.09), (0.09, 1.1, 0.1)))
    return [
        (box((x - 0.01, y, 1.02), (0.05, 0.92, 2.04)), leaf),
        (join(posts), frame),
        (ellipsoid((x - 0.08, y + 0.36, 1.0), (0.04, 0.05, 0.04)), knob),
    ]


def ceiling_lamp(kit: Kit, place: tuple[float, float], height: float, on: bool) -> Pieces:
    """A round shade on a cord."""
    light = (2.6, 2.3, 1.8) if on else (0.0, 0.0, 0.0)
    shade = kit.part("lamp", (0.6, 0.57, 0.5), emission=light, kelvin=14.0 if on else 0.0)
    cord = tube((*place, height - 0.35), (*place, height), 0.012, 5)
    return [(join([ellipsoid((*place, height - 0.4), (0.2, 0.2, 0.11), 8, 12), cord]), shade)]


def picture(kit: Kit, place: tuple[float, float], side: int) -> Pieces:
    """A framed picture on a long wall."""
    x, y = place
    wide, high, z = (
        kit.rng.uniform(0.4, 0.9),
        kit.rng.uniform(0.35, 0.7),
        kit.rng.uniform(1.5, 1.75),
    )
    key = int(kit.rng.integers(1, 99))
    tone = kit.rng.uniform(0.1, 0.5, 3)
    print_part = kit.part("picture", tone, Pattern.PICTURE, params=(key,))
    frame = kit.wood("picture")
    return [
        (box((x, y - side * 0.02, z), (wide + 0.08, 0.03, high + 0.08)), frame),
        (box((x, y - side * 0.03, z), (wide, 0.03, high)), print_part),
    ]


def rug(kit: Kit) -> Pieces:
    """A carpet on the floor."""
    size = (kit.rng.uniform(1.4, 2.2), kit.rng.uniform(1.1, 1.6))
    tone = np.array(CLOTHS[int(kit.rng.integers(len(CLOTHS)))])
    part = kit.part("floor mat", tone, Pattern.CARPET, params=(float(kit.rng.uniform(0, 0.8)),))
    return [(box((0, 0, 0.008), (*size, 0.016)), part)]


def sofa(kit: Kit, width: float) -> tuple[Pieces, float]:
    """A sofa with cushions."""
    depth, cloth = 0.85, kit.cloth("sofa", kelvin=float(kit.rng.choice([0.0, 0.0, 2.5])))
    body = [
        block((-width / 2, width / 2), (-depth / 2, depth / 2), (0.08, 0.42)),
        block((-width / 2, width / 2), (depth / 2 - 0.22, depth / 2), (0.4, 0.86)),
    ]
    body += [
        block((s * width / 2 - 0.09, s * width / 2 + 0.09), (-0.42, 0.42), (0.08, 0.62))
        for s in (-1, 1)
    ]
    pillows = [ellipsoid((s * width * 0.28, 0.06, 0.58), (0.2, 0.1, 0.18)) for s in (-1, 1)]
    return [(join(body), cloth), (join(pillows), kit.cloth("pillow"))], depth


def bed(kit: Kit, width: float) -> tuple[Pieces, float]:
    """A bed along the wall."""
    depth = 1.0
    frame, sheet = kit.wood("bed"), kit.cloth("bed", folded=True, kelvin=0.5)
    pieces: Pieces = [
        (block((-width / 2, width / 2), (-depth / 2, depth / 2), (0.1, 0.35)), frame),
        (
            block(
                (-width / 2 + 0.03, width / 2 - 0.06), (-depth / 2 - 0.02, depth / 2), (0.34, 0.55)
            ),
            sheet,
        ),
        (block((width / 2 - 0.06, width / 2), (-depth / 2, depth / 2), (0.1, 0.95)), frame),
        (
            ellipsoid((width / 2 - 0.35, 0, 0.6), (0.22, 0.36, 0.1)),
            kit.part("pillow", (0.66, 0.65, 0.62)),
        ),
    ]
    return pieces, depth


def cabinet(kit: Kit, width: float) -> tuple[Pieces, float]:
    """A cabinet with doors, low or tall."""
    high, depth = float(kit.rng.choice([0.8, 1.0, 1.9])), 0.5
    part, knobs = kit.wood("cabinet"), kit.part("cabinet", (0.4, 0.38, 0.33), emissivity=0.4)
    count = max(2, round(width / 0.5))
    panels = [block((-width / 2, width / 2), (-depth / 2, depth / 2), (0.06, high))]
    step = width / count
    panels += [
        box(
            (-width / 2 + (i + 0.5) * step, -depth / 2 - 0.01, high / 2 + 0.03),
            (step - 0.03, 0.03, high - 0.14),
        )
        for i in range(count)
    ]
    handles = [
        box((-width / 2 + (i + 0.8) * step, -depth / 2 - 0.04, high * 0.6), (0.02, 0.03, 0.14))
        for i in range(count)
    ]
    pieces: Pieces = [(join(panels), part), (join(handles), knobs)]
    if high < 1.2 and kit.rng.uniform() < 0.6:
        pieces += _plant(kit, (-width * 0.3, 0.0, high))
    return pieces, depth


def television(kit: Kit, width: float) -> tuple[Pieces, float]:
    """A screen on a low cabinet; warm when it runs."""
    on = kit.rng.uniform() < 0.6
    depth, base = 0.45, kit.wood("cabinet")
    glow = tuple(kit.rng.uniform(0.1, 0.5, 3)) if on else (0.0, 0.0, 0.0)
    screen = kit.part(
        "television", (0.012, 0.012, 0.014), Pattern.PICTURE, params=(3.0,), ior=1.5,
        emission=glow, kelvin=9.0 if on else 0.0, emissivity=0.9,
    )  # fmt: skip
    return [
        (block((-width / 2, width / 2), (-depth / 2, depth / 2), (0.1, 0.5)), base),
        (box((0, 0.08, 0.92), (min(1.15, width), 0.06, 0.66)), screen),
        (box((0, 0.08, 0.53), (0.4, 0.2, 0.06)), base),
    ], depth


def bookshelf(kit: Kit, width: float) -> tuple[Pieces, float]:
    """Shelves full of books."""
    high, depth = 1.95, 0.32
    part, books = kit.wood("bookshelf"), kit.part("books", (0.3, 0.2, 0.2), Pattern.BOOKS)
    boards = [box((0, 0, 0.04 + i * 0.38), (width, depth, 0.035)) for i in range(6)]
    boards += [box((s * width / 2, 0, high / 2), (0.04, depth, high)) for s in (-1, 1)]
    boards.append(box((0, depth / 2 - 0.01, high / 2), (width, 0.02, high)))
    inner, left = width - 0.08, 0.04 - width / 2
    rows = [
        block((left, left + inner * share), (-0.06, 0.14), (0.06 + i * 0.38, 0.34 + i * 0.38))
        for i, share in enumerate(kit.rng.uniform(0.45, 1.0, 5))
    ]
    return [(join(boards), part), (join(rows), books)], depth


def desk(kit: Kit, width: float) -> tuple[Pieces, float]:
    """A desk with a monitor, a warm computer, paper and a chair before it."""
    depth = 0.7
    part = kit.wood("desk")
    legs = [
        box((sx * (width / 2 - 0.05), sy * 0.3, 0.36), (0.06, 0.06, 0.72))
        for sx in (-1, 1)
        for sy in (-1, 1)
    ]
    screen = kit.part(
        "television", (0.012, 0.012, 0.013), ior=1.5, kelvin=7.0, emission=(0.12, 0.16, 0.22)
    )
    computer = kit.part("otherprop", (0.05, 0.05, 0.05), kelvin=8.0)
    paper = kit.part("paper", (0.75, 0.74, 0.72))
    pieces: Pieces = [
        (join([box((0, 0, 0.73), (width, depth, 0.04)), *legs]), part),
        (
            join(
                [box((0, 0.15, 1.08), (0.6, 0.04, 0.38)), box((0, 0.18, 0.82), (0.08, 0.06, 0.2))]
            ),
            screen,
        ),
        (box((width / 2 - 0.2, 0.1, 0.25), (0.2, 0.45, 0.45)), computer),
        (box((-width * 0.28, -0.1, 0.755), (0.3, 0.21, 0.012)), paper),
    ]
    return pieces + _moved(chair(kit), (0.0, -0.6, 0.0)), depth


def night_stand(kit: Kit, width: float) -> tuple[Pieces, float]:
    """A small stand with a lamp, and a box beside it."""
    depth, on = 0.42, kit.climate.lamps_on
    light = (1.6, 1.3, 0.8) if on else (0.0, 0.0, 0.0)
    lamp = kit.part("lamp", (0.6, 0.52, 0.38), emission=light, kelvin=12.0 if on else 0.0)
    cup = kit.part("otherprop", (0.6, 0.6, 0.62), kelvin=float(kit.rng.uniform(0, 28)))
    pieces: Pieces = [
        (box((0, 0, 0.27), (0.5, depth, 0.54)), kit.wood("night stand")),
        (
            join(
                [
                    tube((0, 0, 0.54), (0, 0, 0.8), 0.025, 6),
                    tube((0, 0, 0.74), (0, 0, 0.98), 0.16, 10, 0.09),
                ]
            ),
            lamp,
        ),
        (tube((0.17, -0.12, 0.54), (0.17, -0.12, 0.63), 0.04, 9), cup),
    ]
    if width > 1.2:
        pieces.append(
            (box((0.6, 0, 0.17), (0.42, 0.34, 0.34)), kit.part("box", (0.42, 0.30, 0.17)))
        )
    return pieces, depth


def chair(kit: Kit) -> Pieces:
    """A plain chair that faces +y."""
    part = kit.cloth("chair") if kit.rng.uniform() < 0.5 else kit.wood("chair")
    body = [box((0, 0, 0.45), (0.44, 0.43, 0.06)), box((0, -0.2, 0.74), (0.42, 0.04, 0.5))]
    body += [
        tube((sx * 0.18, sy * 0.18, 0), (sx * 0.18, sy * 0.18, 0.44), 0.025, 6)
        for sx in (-1, 1)
        for sy in (-1, 1)
    ]
    return [(join(body), part)]


def table(kit: Kit, low: bool) -> Pieces:
    """A table with something on it."""
    high, size = (0.42, (0.95, 0.6)) if low else (0.74, (1.3, 0.85))
    top, legs = kit.wood("table"), []
    for sx in (-1, 1):
        for sy in (-1, 1):
            x, y = sx * (size[0] / 2 - 0.06), sy * (size[1] / 2 - 0.06)
            legs.append(tube((x, y, 0), (x, y, high), 0.035, 7))
    cup = kit.part(
        "otherprop", tuple(kit.rng.uniform(0.1, 0.7, 3)), kelvin=float(kit.rng.uniform(0, 30))
    )
    books = kit.part("books", tuple(kit.rng.uniform(0.05, 0.5, 3)))
    return [
        (join([box((0, 0, high), (*size, 0.045)), *legs]), top),
        (tube((0.2, 0.1, high + 0.02), (0.2, 0.1, high + 0.13), 0.05, 10), cup),
        (box((-0.2, 0.05, high + 0.045), (0.26, 0.2, 0.05)), books),
        *_plant(kit, (0.0, -0.12, high + 0.02)),
    ]


def middle(kit: Kit, kind: str) -> list[tuple[Pieces, tuple[float, float], float]]:
    """What stands in the middle of a room: pieces, offset and heading."""
    if kind == "bedroom":
        return [(chair(kit), (0.3, 0.4), float(kit.rng.uniform(0, 6)))]
    low = kind == "living"
    things: list[tuple[Pieces, tuple[float, float], float]] = [(table(kit, low), (0.0, 0.0), 0.0)]
    if not low:
        for dx, dy, turn in ((-0.3, 0.75, np.pi), (0.3, 0.75, np.pi), (-0.1, -0.75, 0.0)):
            things.append((chair(kit), (dx, dy), float(turn + kit.rng.normal(0, 0.15))))
    return things


def clutter(kit: Kit) -> Pieces:
    """A bag and a box in a corner."""
    return [
        (ellipsoid((0, 0, 0.2), (0.2, 0.14, 0.22)), kit.cloth("bag")),
        (box((-0.45, 0, 0.16), (0.38, 0.32, 0.32)), kit.part("box", (0.42, 0.30, 0.17))),
    ]


def _plant(kit: Kit, place: tuple[float, float, float]) -> Pieces:
    x, y, z = place
    pot = kit.part("otherprop", (0.42, 0.18, 0.10))
    green = kit.part("otherprop", (0.06, 0.16, 0.04), Pattern.LEAVES, kelvin=-1.0)
    blades = []
    for turn in np.arange(9) * 2.4:
        tip = (x + 0.16 * np.cos(turn), y + 0.16 * np.sin(turn), z + 0.28 + 0.012 * turn)
        blades.append(tube((x, y, z + 0.12), tip, 0.03, 5, 0.008))
    return [(tube((x, y, z), (x, y, z + 0.13), 0.06, 9, 0.08), pot), (join(blades), green)]


def _moved(pieces: Pieces, offset: tuple[float, float, float]) -> Pieces:
    return [(mesh.moved(offset), part) for mesh, part in pieces]


Maker = Callable[[Kit, float], tuple[Pieces, float]]
ALONG_WALLS: dict[str, tuple[Maker, ...]] = {
    "living": (sofa, television, bookshelf, cabinet, night_stand),
    "bedroom": (bed, cabinet, night_stand, bookshelf),
    "office": (desk, bookshelf, cabinet, sofa, desk),
}
