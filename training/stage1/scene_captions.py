"""Captions that tell what a driver would, from labels and the facts that a sample carries.

`a wet town street at night, trees left, two people far right, one car near ahead`: kind of
place, time of day, weather, what stands on which side, then how many of each kind of thing and
where the largest of them is. Every word is one token of CLIP's tokenizer.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segrgbx_core.labels.label_space import VOID

LONGEST = 48
"""Tokens of the longest caption, begin and end marks included."""
SMALLEST_SHARE = 1e-3
"""Share of the image that a thing must cover to be counted: 19 pixels of 160 x 120."""
FOGGY = 0.008
"""Extinction per metre from which a scene is foggy: a tenth of the light is left after 290 m."""
WET = 0.5
"""Wetness from which a road looks damp."""
_NEAR, _FAR = 0.3, 0.12
"""Height relative to the image's from which a thing is near, and below which it is far."""
_SIDE_SHARE = 0.2
"""Share of a third of the image from which something stands there."""

_THINGS = {
    "person": ("person", "people"),
    "rider": ("person", "people"),
    "car": ("car", "cars"),
    "bike": ("bicycle", "bicycles"),
    "bus": ("bus", "buses"),
    "truck": ("truck", "trucks"),
    "traffic light": ("light", "lights"),
    "traffic sign": ("sign", "signs"),
    "bed": ("bed", "beds"),
    "sofa": ("seat", "seats"),
    "table": ("table", "tables"),
    "desk": ("desk", "desks"),
    "chair": ("chair", "chairs"),
    "window": ("window", "windows"),
    "door": ("door", "doors"),
    "bookshelf": ("shelf", "shelves"),
    "shelves": ("shelf", "shelves"),
    "lamp": ("lamp", "lamps"),
    "picture": ("picture", "pictures"),
}
"""Unified class to its word for one and for several; first come what is told first."""
_SURROUNDINGS = {
    "building": "houses",
    "vegetation": "trees",
    "terrain": "grass",
    "water": "water",
    "wall (outdoor)": "wall",
    "fence": "fence",
}
"""What may fill a side of a street, by unified class."""
_INDOOR = frozenset({"floor", "ceiling", "wall (indoor)"})
_SIDES = ("left", "ahead", "right")
_PLACES = {
    ("left",): "left",
    ("ahead",): "ahead",
    ("right",): "right",
    ("left", "ahead"): "ahead left",
    ("ahead", "right"): "ahead right",
    ("left", "right"): "beside",
    ("left", "ahead", "right"): "around",
}
_NUMBERS = ("no", "one", "two", "three", "four")
_TIMES = {
    "day": "in sun",
    "sun": "in sun",
    "overcast": "under clouds",
    "cloud": "under clouds",
    "dusk": "at dusk",
    "night": "at night",
}
"""Words for `time_of_day` of rendered records and for the groups of public data sets."""
_MIRRORED = {"left": "right", "right": "left"}
Box = tuple[int, int, int, int]
"""Left, top, width and height in pixels."""


def describe(
    labels: NDArray[np.uint8],
    names: Sequence[str],
    facts: Mapping[str, Any],
    groups: Collection[str] = (),
) -> str:
    """What there is to see.

    Args:
        labels: uint8 (H, W), positions in `names`, `VOID` unlabelled.
        names: unified class names.
        facts: of a rendered record: `time_of_day`, `fog`, `wetness`, `room`; all optional.
        groups: of a public data set's sample, such as "night" or "rain".
    """
    shares = _shares(labels, names)
    is_indoor = any(name in shares for name in _INDOOR)
    phrases = [_place(shares, is_indoor, facts, groups)]
    if not is_indoor:
        phrases += _surroundings(labels, names)
    phrases += _things(labels, names)
    text = phrases[0]
    for phrase in phrases[1:]:
        longer = f"{text}, {phrase}"
        if token_count(longer) > LONGEST:
            break
        text = longer
    return text


def token_count(text: str) -> int:
    """Tokens of a caption of this module, marks included: one per word and one per comma."""
    return len(text.replace(",", " ,").split()) + 2


def mirrored(text: str) -> str:
    """The caption of the mirrored image: left and right change places."""
    parts = text.replace(",", " ,").split()
    if not any(part.lower() in _MIRRORED for part in parts):
        return text
    return " ".join(_MIRRORED.get(part.lower(), part) for part in parts).replace(" ,", ",")


def _shares(labels: NDArray[np.uint8], names: Sequence[str]) -> dict[str, float]:
    counts = np.bincount(labels.ravel(), minlength=VOID + 1)[: len(names)]
    total: dict[str, float] = {}
    for name, count in zip(names, counts.tolist(), strict=False):
        if count:
            total[name] = total.get(name, 0.0) + count / labels.size
    return total


def _place(
    shares: Mapping[str, float],
    is_indoor: bool,
    facts: Mapping[str, Any],
    groups: Collection[str],
) -> str:
    weather = []
    if facts.get("fog", 0.0) >= FOGGY or "fog" in groups:
        weather.append("foggy")
    if facts.get("wetness", 0.0) >= WET:
        weather.append("wet")
    if "rain" in groups:
        weather.append("rainy")
    if is_indoor:
        kind = {"living": "living room"}.get(
            str(facts.get("room")), str(facts.get("room", "room"))
        )
    else:
        kind = _street(shares)
    stated = [str(facts.get("time_of_day", "")), *groups]
    time = next((_TIMES[word] for word in stated if word in _TIMES), "")
    words = [*weather, kind]
    article = "an" if words[0][0] in "aeiou" else "a"
    return " ".join(filter(None, (article, *words, time)))


def _street(shares: Mapping[str, float]) -> str:
    """Town, green or open: by what fills the image beside the road."""
    built = shares.get("building", 0.0)
    green = shares.get("vegetation", 0.0) + shares.get("terrain", 0.0)
    if max(built, green) < 0.15:
        return "open street"
    return "town street" if built >= green else "green street"


def _surroundings(labels: NDArray[np.uint8], names: Sequence[str]) -> list[str]:
    """What fills which thirds of the image besides road and things."""
    sides: dict[str, list[str]] = {word: [] for word in _SURROUNDINGS.values()}
    for side, part in zip(_SIDES, np.array_split(labels, 3, axis=1), strict=True):
        shares = {
            name: share for name, share in _shares(part, names).items() if name in _SURROUNDINGS
        }
        if shares and max(shares.values()) >= _SIDE_SHARE:
            sides[_SURROUNDINGS[max(shares, key=lambda name: shares[name])]].append(side)
    # In an order that mirroring leaves as it is.
    return [f"{word} {_PLACES[tuple(where)]}" for word, where in sides.items() if where]


def _things(labels: NDArray[np.uint8], names: Sequence[str]) -> list[str]:
    """How many of each kind, and where the largest of them is."""
    phrases = []
    for words in dict.fromkeys(_THINGS.values()):
        ids = [place for place, name in enumerate(names) if _THINGS.get(name) == words]
        found = _components(np.isin(labels, ids)) if ids else []
        if not found:
            continue
        _, box = max(found, key=lambda item: item[0])
        count = len(found)
        amount = _NUMBERS[count] if count < len(_NUMBERS) else "many"
        noun = words[0] if count == 1 else words[1]
        phrases.append(" ".join((amount, noun, *_where(box, labels.shape))))
    return phrases


def _components(mask: NDArray[np.bool_]) -> list[tuple[int, Box]]:
    """Area and box of each connected part that is large enough to be counted."""
    _, _, parts, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    least = SMALLEST_SHARE * mask.size
    found = []
    for left, top, width, height, area in parts[1:].tolist():  # the first one is the rest
        if area >= least:
            found.append((area, (left, top, width, height)))
    return found


def _where(box: Box, shape: tuple[int, ...]) -> list[str]:
    left, _, width, height = box
    tall = height / shape[0]
    middle = (left + width / 2) / shape[1]
    distance = ["near"] if tall >= _NEAR else ["far"] if tall < _FAR else []
    return [*distance, _SIDES[min(2, int(3 * middle))]]
