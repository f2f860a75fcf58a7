"""Class tables: the unified space and the data sets' own spaces with each class's unified name.

A table's rows are in the order of the data set's training ids; a row holds the data set's own
name, its colour, and the unified class it maps to. The last column is the whole of our merging.

Merges (14 unified classes serve several data sets). Plain synonyms: Pedestrian and pedestrian are
person; Cars is car; bicycle is bike; GroundRail is DeLiVER's spelling of guardrail. Doubtful ones,
each a single word to change here:

- UrbanLF `vehicle` (car, bus and truck together) is car; as its own class the space would have 72.
- DeLiVER `Other` and UrbanLF `others` are both other, though they are leftovers of different
  lists: UrbanLF's holds soil, grass, bins and chairs.
- DeLiVER `TwoWheeler` and UrbanLF `bike` include motorcycles; MFNet and ZJU do not say.
- DeLiVER takes road lines out of road and traffic lights out of traffic signs, UrbanLF takes
  riders out of persons; the other data sets leave them in.

Kept apart on purpose: a garden wall and a room wall; ZJU `glass` and what others call building or
window; DeLiVER `Terrain` and UrbanLF `others`; MFNet `curve` (a kerb) and DeLiVER's road line;
MFNet `color_cone` and DeLiVER's static object. MFNet `unlabeled` covers most of each image and is
scored, so it is a class of its own ("unlabeled background"), not void.

Unified colours are at least 9.9 apart (CIEDE2000), from each other and from void's black; street
classes have DeLiVER's, but for riders. The data sets' own palettes clash with each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segrgbx_core.base.errors import ConfigError, did_you_mean
from segrgbx_core.base.modality import Modality

Rgb = tuple[int, int, int]

MAX_VALUE = 65535
"""Label files have 16 bits at most."""
MAX_CLASSES = 255
"""Ids are uint8 and 255 is void."""


@dataclass(frozen=True)
class ClassTable:
    """Class names and their colours in RGB; the position is the id."""

    names: tuple[str, ...]
    palette: tuple[Rgb, ...]

    @property
    def num_classes(self) -> int:
        """Number of classes, void not counted."""
        return len(self.names)

    @property
    def ids(self) -> Sequence[int]:
        """Ids of the classes, in the order of `names`."""
        return range(len(self.names))

    def palette_array(self) -> NDArray[np.uint8]:
        """Colour table uint8 (256, 3) to index with label maps; void and unused ids are black."""
        colours = np.zeros((256, 3), np.uint8)
        colours[list(self.ids)] = self.palette
        return colours

    def check(self, place: str) -> None:
        """Refuses what cannot be a class table.

        Raises:
            ConfigError: no class, too many, a name twice, or a palette that does not fit.
        """
        count = len(self.names)
        if not 1 <= count <= MAX_CLASSES:
            raise ConfigError(f"{place}: {count} classes; allowed are 1 to {MAX_CLASSES}")
        twice = sorted({name for name in self.names if self.names.count(name) > 1})
        if twice:
            raise ConfigError(f"{place}: class '{twice[0]}' is listed twice")
        if len(self.palette) != count:
            raise ConfigError(
                f"{place}: {count} classes but {len(self.palette)} colours; give one each"
            )
        for name, colour in zip(self.names, self.palette, strict=True):
            if len(colour) != 3 or not all(0 <= value <= 255 for value in colour):
                raise ConfigError(
                    f"{place}: colour {colour} of '{name}' is not three values in [0, 255]"
                )


@dataclass(frozen=True, kw_only=True)
class NativeSpace(ClassTable):
    """A data set's own classes and their unified ids; ids are training ids.

    Attributes:
        name: key of the data set in YAML, checkpoints and reports.
        modality: complementary sensor of the data set, None where it has several.
        to_unified: unified id of each training id; no unified id twice.
        file_offset: value of training id 0 in the label files.
        void_file_values: values in the label files that mean "not labelled".
    """

    name: str
    modality: Modality | None
    to_unified: tuple[int, ...]
    file_offset: int = 0
    void_file_values: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        place = f"label space '{self.name}'"
        self.check(place)
        if len(self.to_unified) != len(self.names):
            raise ConfigError(
                f"{place}: {len(self.names)} classes but {len(self.to_unified)} unified ids; "
                f"give one each"
            )
        wrong = [v for v in (self.file_offset, *self.void_file_values) if not 0 <= v <= MAX_VALUE]
        if wrong:
            raise ConfigError(f"{place}: file value {wrong[0]} is outside [0, {MAX_VALUE}]")
        owner: dict[int, str] = {}
        for name, unified in zip(self.names, self.to_unified, strict=True):
            if unified in owner:
                raise ConfigError(
                    f"{place}: classes '{owner[unified]}' and '{name}' both map to unified id "
                    f"{unified}; remapping back needs one each"
                )
            owner[unified] = name


# fmt: off
_UNIFIED: tuple[tuple[str, Rgb], ...] = (
    ("building", (70, 70, 70)),  # 0
    ("fence", (100, 40, 40)),  # 1
    ("other", (55, 90, 80)),  # 2
    ("person", (220, 20, 60)),  # 3
    ("pole", (153, 153, 153)),  # 4
    ("road line", (157, 234, 50)),  # 5
    ("road", (128, 64, 128)),  # 6
    ("sidewalk", (244, 35, 232)),  # 7
    ("vegetation", (107, 142, 35)),  # 8
    ("car", (0, 0, 142)),  # 9
    ("wall (outdoor)", (102, 102, 156)),  # 10
    ("traffic sign", (220, 220, 0)),  # 11
    ("sky", (70, 130, 180)),  # 12
    ("ground", (81, 0, 81)),  # 13
    ("bridge", (150, 100, 100)),  # 14
    ("rail track", (230, 150, 140)),  # 15
    ("guardrail", (180, 165, 180)),  # 16
    ("traffic light", (250, 170, 30)),  # 17
    ("static object", (110, 190, 160)),  # 18
    ("dynamic object", (170, 120, 50)),  # 19
    ("water", (45, 60, 150)),  # 20
    ("terrain", (145, 170, 100)),  # 21
    ("bike", (0, 0, 230)),  # 22
    ("bus", (0, 60, 100)),  # 23
    ("truck", (0, 0, 70)),  # 24
    ("rider", (255, 80, 0)),  # 25
    ("glass", (0, 128, 0)),  # 26
    ("unlabeled background", (48, 32, 0)),  # 27
    ("curve", (48, 80, 255)),  # 28
    ("car stop", (128, 112, 0)),  # 29
    ("color cone", (240, 192, 240)),  # 30
    ("bump", (240, 144, 80)),  # 31
    ("wall (indoor)", (160, 0, 0)),  # 32
    ("floor", (0, 96, 48)),  # 33
    ("cabinet", (176, 160, 0)),  # 34
    ("bed", (48, 112, 128)),  # 35
    ("chair", (176, 112, 160)),  # 36
    ("sofa", (0, 144, 144)),  # 37
    ("table", (144, 176, 176)),  # 38
    ("door", (112, 80, 64)),  # 39
    ("window", (176, 80, 32)),  # 40
    ("bookshelf", (0, 160, 96)),  # 41
    ("picture", (208, 176, 144)),  # 42
    ("counter", (112, 96, 112)),  # 43
    ("blinds", (208, 0, 128)),  # 44
    ("desk", (0, 192, 208)),  # 45
    ("shelves", (255, 208, 208)),  # 46
    ("curtain", (0, 48, 0)),  # 47
    ("dresser", (128, 80, 0)),  # 48
    ("pillow", (0, 192, 32)),  # 49
    ("mirror", (192, 192, 160)),  # 50
    ("floor mat", (0, 176, 240)),  # 51
    ("clothes", (255, 128, 224)),  # 52
    ("ceiling", (0, 255, 240)),  # 53
    ("books", (208, 255, 208)),  # 54
    ("refrigerator", (80, 80, 0)),  # 55
    ("television", (255, 240, 224)),  # 56
    ("paper", (0, 240, 144)),  # 57
    ("towel", (255, 224, 144)),  # 58
    ("shower curtain", (224, 224, 255)),  # 59
    ("box", (255, 80, 144)),  # 60
    ("whiteboard", (208, 224, 224)),  # 61
    ("night stand", (0, 48, 48)),  # 62
    ("toilet", (144, 0, 80)),  # 63
    ("sink", (80, 128, 96)),  # 64
    ("lamp", (112, 112, 96)),  # 65
    ("bathtub", (176, 144, 255)),  # 66
    ("bag", (160, 16, 255)),  # 67
    ("otherstructure", (144, 224, 255)),  # 68
    ("otherfurniture", (160, 192, 255)),  # 69
    ("otherprop", (48, 32, 48)),  # 70
)
# fmt: on

UNIFIED_NAMES: tuple[str, ...] = tuple(name for name, _ in _UNIFIED)
UNIFIED_PALETTE: tuple[Rgb, ...] = tuple(colour for _, colour in _UNIFIED)


def native_space(
    name: str,
    modality: Modality | None,
    rows: tuple[tuple[str, Rgb, str], ...],
    file_offset: int = 0,
    void_file_values: tuple[int, ...] = (),
) -> NativeSpace:
    """A data set's table from rows of own name, colour and unified name.

    Raises:
        ConfigError: a unified name that does not exist, or two rows with the same one.
    """
    ids = {unified: index for index, unified in enumerate(UNIFIED_NAMES)}
    for own, _, unified in rows:
        if unified not in ids:
            raise ConfigError(
                f"label space '{name}': class '{own}' maps to '{unified}', which is no unified "
                f"class{did_you_mean(unified, UNIFIED_NAMES)}"
            )
    return NativeSpace(
        name=name,
        modality=modality,
        names=tuple(own for own, _, _ in rows),
        palette=tuple(colour for _, colour, _ in rows),
        to_unified=tuple(ids[unified] for _, _, unified in rows),
        file_offset=file_offset,
        void_file_values=void_file_values,
    )


DELIVER = native_space(
    "deliver",
    Modality.EVENT,
    (
        ("Building", (70, 70, 70), "building"),
        ("Fence", (100, 40, 40), "fence"),
        ("Other", (55, 90, 80), "other"),
        ("Pedestrian", (220, 20, 60), "person"),
        ("Pole", (153, 153, 153), "pole"),
        ("RoadLine", (157, 234, 50), "road line"),
        ("Road", (128, 64, 128), "road"),
        ("SideWalk", (244, 35, 232), "sidewalk"),
        ("Vegetation", (107, 142, 35), "vegetation"),
        ("Cars", (0, 0, 142), "car"),
        ("Wall", (102, 102, 156), "wall (outdoor)"),
        ("TrafficSign", (220, 220, 0), "traffic sign"),
        ("Sky", (70, 130, 180), "sky"),
        ("Ground", (81, 0, 81), "ground"),
        ("Bridge", (150, 100, 100), "bridge"),
        ("RailTrack", (230, 150, 140), "rail track"),
        ("GroundRail", (180, 165, 180), "guardrail"),
        ("TrafficLight", (250, 170, 30), "traffic light"),
        ("Static", (110, 190, 160), "static object"),
        ("Dynamic", (170, 120, 50), "dynamic object"),
        ("Water", (45, 60, 150), "water"),
        ("Terrain", (145, 170, 100), "terrain"),
        ("TwoWheeler", (0, 0, 230), "bike"),
        ("Bus", (0, 60, 100), "bus"),
        ("Truck", (0, 0, 70), "truck"),
    ),
    file_offset=1,
    void_file_values=(0, 255),
)
"""DeLiVER, 25 classes, RGB with event. The id is in channel 0 of the PNG."""

MFNET = native_space(
    "mfnet",
    Modality.THERMAL,
    (
        ("unlabeled", (0, 0, 0), "unlabeled background"),
        ("car", (64, 0, 128), "car"),
        ("person", (64, 64, 0), "person"),
        ("bike", (0, 128, 192), "bike"),
        ("curve", (0, 0, 192), "curve"),
        ("car_stop", (128, 128, 0), "car stop"),
        ("guardrail", (64, 64, 128), "guardrail"),
        ("color_cone", (192, 128, 128), "color cone"),
        ("bump", (192, 64, 0), "bump"),
    ),
)
"""MFNet, 9 classes, RGB with thermal. File values are the training ids."""

NYU = native_space(
    "nyu",
    Modality.DEPTH,
    (
        ("wall", (128, 0, 0), "wall (indoor)"),
        ("floor", (0, 128, 0), "floor"),
        ("cabinet", (128, 128, 0), "cabinet"),
        ("bed", (0, 0, 128), "bed"),
        ("chair", (128, 0, 128), "chair"),
        ("sofa", (0, 128, 128), "sofa"),
        ("table", (128, 128, 128), "table"),
        ("door", (64, 0, 0), "door"),
        ("window", (192, 0, 0), "window"),
        ("bookshelf", (64, 128, 0), "bookshelf"),
        ("picture", (192, 128, 0), "picture"),
        ("counter", (64, 0, 128), "counter"),
        ("blinds", (192, 0, 128), "blinds"),
        ("desk", (64, 128, 128), "desk"),
        ("shelves", (192, 128, 128), "shelves"),
        ("curtain", (0, 64, 0), "curtain"),
        ("dresser", (128, 64, 0), "dresser"),
        ("pillow", (0, 192, 0), "pillow"),
        ("mirror", (128, 192, 0), "mirror"),
        ("floor mat", (0, 64, 128), "floor mat"),
        ("clothes", (128, 64, 128), "clothes"),
        ("ceiling", (0, 192, 128), "ceiling"),
        ("books", (128, 192, 128), "books"),
        ("refridgerator", (64, 64, 0), "refrigerator"),
        ("television", (192, 64, 0), "television"),
        ("paper", (64, 192, 0), "paper"),
        ("towel", (192, 192, 0), "towel"),
        ("shower curtain", (64, 64, 128), "shower curtain"),
        ("box", (192, 64, 128), "box"),
        ("whiteboard", (64, 192, 128), "whiteboard"),
        ("person", (192, 192, 128), "person"),
        ("night stand", (0, 0, 64), "night stand"),
        ("toilet", (128, 0, 64), "toilet"),
        ("sink", (0, 128, 64), "sink"),
        ("lamp", (128, 128, 64), "lamp"),
        ("bathtub", (0, 0, 192), "bathtub"),
        ("bag", (128, 0, 192), "bag"),
        ("otherstructure", (0, 128, 192), "otherstructure"),
        ("otherfurniture", (128, 128, 192), "otherfurniture"),
        ("otherprop", (64, 0, 64), "otherprop"),
    ),
    file_offset=1,
    void_file_values=(0,),
)
"""NYUDepthV2, 40 classes, RGB with depth. Some re-packs start at 0: `file_offset` 0."""

ZJU = native_space(
    "zju_rgbp",
    Modality.POLARIZATION,
    (
        ("building", (128, 0, 0), "building"),
        ("glass", (0, 128, 0), "glass"),
        ("car", (128, 128, 0), "car"),
        ("road", (0, 0, 128), "road"),
        ("vegetation", (128, 0, 128), "vegetation"),
        ("sky", (0, 128, 128), "sky"),
        ("pedestrian", (128, 128, 128), "person"),
        ("bicycle", (64, 0, 0), "bike"),
    ),
    file_offset=1,
    void_file_values=(0,),
)
"""ZJU RGB-P, 8 classes, RGB with polarization."""

URBANLF = native_space(
    "urbanlf",
    Modality.LIGHT_FIELD,
    (
        ("bike", (168, 198, 168), "bike"),
        ("building", (198, 0, 0), "building"),
        ("fence", (202, 154, 198), "fence"),
        ("others", (0, 0, 0), "other"),
        ("person", (100, 198, 198), "person"),
        ("pole", (198, 100, 0), "pole"),
        ("road", (52, 42, 198), "road"),
        ("sidewalk", (154, 52, 192), "sidewalk"),
        ("traffic sign", (198, 0, 168), "traffic sign"),
        ("vegetation", (0, 198, 0), "vegetation"),
        ("vehicle", (198, 186, 90), "car"),
        ("bridge", (108, 107, 161), "bridge"),
        ("rider", (156, 200, 26), "rider"),
        ("sky", (158, 179, 202), "sky"),
    ),
    file_offset=1,
    void_file_values=(0, 255),
)
"""UrbanLF, 14 classes, RGB with light field. The real part also comes as palette colours."""

_STREET_CLASSES = (
    "road",
    "road line",
    "sidewalk",
    "building",
    "pole",
    "traffic sign",
    "vegetation",
    "terrain",
    "sky",
    "person",
    "car",
    "bike",
    "glass",
    "water",
    "static object",
    "traffic light",
)

SYNTHETIC_STREET = native_space(
    "synthetic_street",
    None,
    tuple((name, UNIFIED_PALETTE[UNIFIED_NAMES.index(name)], name) for name in _STREET_CLASSES),
    void_file_values=(255,),
)
"""The project's own rendered street scenes: any modality, unified names and colours."""

PUBLIC_SPACES: tuple[NativeSpace, ...] = (DELIVER, MFNET, NYU, ZJU, URBANLF)
"""The five data sets of the paper, in the order of its Table I."""
