"""Published figures, from `paper_tables.yaml`, and the results of ours that stand beside them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Any

from segrgbx_core.base.config import Config, from_mapping, option, read_yaml
from segrgbx_core.base.errors import DataError
from training.eval.joint import JOINT_FORMAT
from training.eval.report import FORMAT

_TABLES = Path(__file__).with_name("paper_tables.yaml")


class PaperRow(Config):
    """One method in a table of the paper."""

    method: str = option(doc="name of the method")
    model: str = option(doc="specialist, generalist or fine-tuned")
    values: tuple[float, ...] = option(doc="mIoU in per cent: the mean, then the data sets")
    note: str = option("", doc="what to know about it")


class PaperTable(Config):
    """A table of the paper."""

    title: str = option(doc="number and subject")
    rows: tuple[PaperRow, ...] = option(doc="methods")


class PaperFigures(Config):
    """The paper's own figures."""

    conditions: str = option(doc="how they came about, as far as the paper says")
    table_1: PaperTable = option(doc="specialists and the generalist")
    table_2: PaperTable = option(doc="fine-tuning")
    table_5: PaperTable = option(doc="single-modality and joint training")


class LiteratureRow(Config):
    """A method's own published figure."""

    method: str = option(doc="name and backbone")
    x: str = option(doc="what served as X")
    value: float = option(doc="mIoU in per cent")
    note: str = option("", doc="other figures of the same work")


class Literature(Config):
    """Published figures on one data set."""

    data: str = option(doc="data set, by the name of its label space")
    conditions: str = option(doc="split, classes, size and scales")
    rows: tuple[LiteratureRow, ...] = option(doc="methods")


class Published(Config):
    """Everything that was published and is laid beside ours."""

    columns: dict[str, str] = option(doc="titles of the paper's data sets by label space")
    paper: PaperFigures = option(doc="figures of SegRGB-X's paper")
    literature: tuple[Literature, ...] = option(doc="figures of others' papers")


class Role(str, Enum):
    """What a checkpoint was trained for."""

    GENERALIST = "generalist"
    SPECIALIST = "specialist"
    FINE_TUNED = "fine-tuned"


class Result(Config):
    """One data set in a report.json, as far as tables need it; see `scores.report.Report`."""

    checkpoint: str = option(doc="file name")
    hash: str = option(doc="SHA-256 of the file")
    native: str = option(doc="data set")
    modality: str = option(doc="X")
    split: str = option(doc="of the data set")
    options: str = option(doc="the data set's own options")
    whole: int = option(doc="samples of the whole split")
    samples: int = option(doc="samples scored")
    views: str = option(doc="which views were averaged")
    architecture: str = option(doc="network")
    trained_on: tuple[str, ...] = option(doc="data sets of the training")
    started_from: str = option(doc="checkpoint that training started from")
    is_random: bool = option(doc="nothing was trained")
    is_synthetic: bool = option(doc="samples were rendered by this project")
    label_space: str = option(doc="what answers were chosen from")
    primary: str = option(doc="first reading")
    readings: dict[str, str] = option(doc="readings of mIoU in words")
    figures: dict[str, dict[str, float | None]] = option(doc="mIoU by reading and rule")

    @property
    def role(self) -> Role:
        """What the checkpoint was trained for."""
        if len(self.trained_on) > 1:
            return Role.GENERALIST
        return Role.FINE_TUNED if self.started_from else Role.SPECIALIST

    @property
    def is_comparable(self) -> bool:
        """True where the result may stand beside published ones."""
        is_own = self.label_space == self.native and self.native in self.trained_on
        return is_own and not (self.is_synthetic or self.is_random)

    @property
    def is_complete(self) -> bool:
        """True where the whole split was scored."""
        return self.samples == self.whole

    @property
    def second(self) -> str:
        """Key of the second reading; the first one's where there is no other."""
        others = [key for key in self.readings if key != self.primary]
        return others[0] if others else self.primary

    def value(self, key: str, rule: str = "skip") -> float | None:
        """Mean IoU in [0, 1] by reading and rule for absent classes; None where undefined."""
        return self.figures[key][rule]


def read_published() -> Published:
    """The published figures.

    Raises:
        ConfigError: when the file was edited into something else.
    """
    return read_yaml(Published, _TABLES)


def read_results(paths: Sequence[Path | str]) -> list[Result]:
    """The results in files that `training.evaluate` wrote, of one data set or of several.

    Raises:
        DataError: when a file is missing or no such report.
    """
    results = []
    for path in map(Path, paths):
        data = read_json(path)
        kind = data.get("format")
        if kind not in (FORMAT, JOINT_FORMAT):
            raise DataError(
                f"{path}: holds no scores ('format' is {kind!r}); expected a report.json of "
                "training.evaluate"
            )
        for entry in data["reports"] if kind == JOINT_FORMAT else [data]:
            known = {name: entry[name] for name in Result.model_fields if name in entry}
            results.append(from_mapping(Result, known, str(path)))
    return results


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds names with values.

    Raises:
        DataError: when it is missing or something else.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: is not JSON ({error})") from None
    if not isinstance(data, dict):
        raise DataError(f"{path}: holds {type(data).__name__}; expected names with values")
    return data
