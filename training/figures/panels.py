"""Panels of predictions beside the truth (the paper's Fig. 7), also by sensor failure (Fig. 9)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from segrgbx_core.base.errors import CheckpointError, ConfigError, DataError
from segrgbx_core.base.files import expand_home
from segrgbx_core.base.modality import Modality
from segrgbx_core.labels.label_space import LabelSpace, synthetic_label_space
from segrgbx_core.labels.metrics import ConfusionMatrix
from segrgbx_core.labels.overlay import (
    LIGHT,
    Picture,
    colourise,
    contact_sheet,
    present_ids,
    preview,
)
from segrgbx_core.runtime.checkpoint import Contract, read_contract
from segrgbx_core.runtime.segmenter import InferenceConfig, Segmenter
from segrgbx_core.sensors import encode
from training.data.datasets import Labelled, joined_space, spread
from training.data.datasets.deliver import Case
from training.eval.eval_data import EvalSplit
from training.figures.inputs import origin_note
from training.world.config import Corruption


@dataclass(frozen=True)
class Failure:
    """A way in which a sensor fails.

    Attributes:
        title: for people, with the paper's letters.
        groups: names that readers give it.
        modality: whose X fails; None for RGB, which concerns every modality.
    """

    title: str
    groups: tuple[str, ...]
    modality: Modality | None = None


FAILURES = (
    Failure("over-exposure (OE)", (Corruption.OVER_EXPOSURE.value, Case.OVER_EXPOSURE.value)),
    Failure("under-exposure (UE)", (Corruption.UNDER_EXPOSURE.value, Case.UNDER_EXPOSURE.value)),
    Failure("motion blur (MB)", (Corruption.MOTION_BLUR.value, Case.MOTION_BLUR.value)),
    Failure(
        "event low resolution (EL)",
        (Corruption.EVENT_LOW_RESOLUTION.value, Case.EVENT_LOW_RESOLUTION.value),
        Modality.EVENT,
    ),
    Failure("lidar jitter", (Case.LIDAR_JITTER.value,), Modality.DEPTH),
)
"""In the order of the paper's Fig. 9."""


@dataclass(frozen=True, eq=False)
class Pick:
    """One row of the panels.

    Attributes:
        split: its data set.
        item: the frame.
        failure: what failed, empty for none.
    """

    split: EvalSplit
    item: Labelled
    failure: str = ""


@dataclass(frozen=True)
class Entry:
    """One column of predictions.

    Attributes:
        title: above the column.
        path: checkpoint.
        contract: what it promises.
    """

    title: str
    path: Path
    contract: Contract


def entries(texts: Sequence[str]) -> list[Entry]:
    """Checkpoints from a command line: `PATH`, or `NAME=PATH` to name the column.

    Without a name the column is called by the file, or by its folder too where files share a name.

    Raises:
        CheckpointError: when a file is missing or none of ours.
    """
    parts = [
        (name, Path(expand_home(path))) for name, _, path in (t.rpartition("=") for t in texts)
    ]
    stems = [path.stem for _, path in parts]
    columns = []
    for (name, place), stem in zip(parts, stems, strict=True):
        title = name or (stem if stems.count(stem) == 1 else f"{place.parent.name}/{stem}")
        contract = read_contract(place)
        columns.append(Entry(f"{title}{' (random)' * contract.is_random}", place, contract))
    return columns


def pick_frames(splits: Sequence[EvalSplit], samples: int) -> list[Pick]:
    """Frames of every data set, evenly spread."""
    return [
        Pick(split, split.reader[index])
        for split in splits
        for index in spread(len(split.reader), samples)
    ]


def pick_failures(splits: Sequence[EvalSplit], samples: int) -> list[Pick]:
    """Frames of every failure of every data set, evenly spread among those that have it.

    Args:
        splits: data sets whose readers name failures in `Labelled.groups`.
        samples: frames per data set and failure.

    Raises:
        DataError: when no frame names a failure.
    """
    picks = []
    for split in splits:
        size = len(split.reader)
        bar = tqdm(range(size), unit="frame", desc=f"failures of {split.title}", leave=False)
        groups = [frozenset(split.reader[index].groups) for index in bar]
        for failure in FAILURES:
            if failure.modality not in (None, split.modality):
                continue
            having = [i for i, names in enumerate(groups) if names & set(failure.groups)]
            picks += [
                Pick(split, split.reader[having[place]], failure.title)
                for place in spread(len(having), samples)
            ]
    if not picks:
        names = ", ".join(name for failure in FAILURES for name in failure.groups[:1])
        raise DataError(
            f"--corruptions: no frame's groups name a failure ({names}); render the split with "
            "`python -m training.world.render ... --set corruption=any`"
        )
    return picks


def panel_sheet(
    columns: Sequence[Entry],
    picks: Sequence[Pick],
    config: InferenceConfig | None = None,
    cell_width: int = 230,
) -> Picture:
    """RGB, X, truth and one prediction per checkpoint, with the classes that occur.

    Predictions are argmax among the data set's own classes, shown in unified colours. A checkpoint
    that was not trained for a modality leaves its cell empty.

    Args:
        columns: checkpoints.
        picks: rows.
        config: how checkpoints run.
        cell_width: width of a cell, in pixels.

    Returns:
        uint8 (H, W, 3).

    Raises:
        CheckpointError: when a checkpoint and a reader differ in a data set's classes.
        ConfigError: when no checkpoint serves any of the rows.
    """
    readers = {id(pick.split): pick.split.reader for pick in picks}
    space = joined_space(list(readers.values()), synthetic_label_space())
    predictions = [_predictions(entry, picks, space, config) for entry in columns]
    if all(ids is None for column in predictions for ids in column):
        raise ConfigError(
            "panels: no checkpoint was trained for "
            f"{', '.join(dict.fromkeys(str(pick.split.modality) for pick in picks))}"
        )
    palette = space.palette_array()
    rows: list[list[Picture | None]] = []
    captions, shown = [], []
    for place, pick in enumerate(picks):
        native = pick.split.reader.native
        truth = space.unify(pick.item.labels, native)
        own = [column[place] for column in predictions]
        x_image = encode(pick.item.sample, columns[0].contract.encoding, pick.split.sensors)
        unified = [None if ids is None else space.unify(ids, native) for ids in own]
        cells = [None if ids is None else colourise(ids, palette) for ids in (truth, *unified)]
        rows.append([pick.item.sample.rgb, preview(x_image), *cells])
        shown += [ids for ids in (truth, *unified) if ids is not None]
        captions.append(_caption(pick, columns, own, space))
    is_failing = any(pick.failure for pick in picks)
    return contact_sheet(
        rows,
        ["RGB", "X as the model sees it", "truth", *(entry.title for entry in columns)],
        captions,
        heading="Predictions where sensors fail" if is_failing else "Predictions",
        note=_note(columns, picks),
        legend_classes=(space.names, palette, present_ids(*shown)),
        cell_width=cell_width,
        theme=LIGHT,
    )


def _note(columns: Sequence[Entry], picks: Sequence[Pick]) -> str:
    splits = list({id(pick.split): pick.split for pick in picks}.values())
    names = " and ".join(dict.fromkeys(split.split for split in splits))
    note = f"Frames evenly spread over the {names} split; mIoU of the single frame."
    return f"{origin_note(splits, [entry.contract for entry in columns])} {note}".strip()


def _predictions(
    entry: Entry, picks: Sequence[Pick], space: LabelSpace, config: InferenceConfig | None
) -> list[NDArray[np.uint8] | None]:
    """Native ids per row, None where the checkpoint does not serve the modality."""
    segmenters: dict[int, Segmenter] = {}
    answers: list[NDArray[np.uint8] | None] = []
    for pick in tqdm(picks, unit="frame", desc=entry.title, leave=False):
        split = pick.split
        if split.modality not in entry.contract.modalities:
            answers.append(None)
            continue
        if id(split) not in segmenters:
            segmenters.clear()  # rows of one data set follow each other; one model at a time
            segmenters[id(split)] = Segmenter.from_checkpoint(
                entry.path, config, split.sensors, label_space=split.reader.native
            )
        segmenter = segmenters[id(split)]
        native = split.reader.native
        if segmenter.label_space.native(native).names != space.native(native).names:
            raise CheckpointError(
                f"checkpoint {entry.path}: its classes of {native} are not those of the data set; "
                "its colours would be wrong"
            )
        answers.append(segmenter.predict([pick.item.sample])[0].labels)
    return answers


def _caption(
    pick: Pick,
    columns: Sequence[Entry],
    answers: Sequence[NDArray[np.uint8] | None],
    space: LabelSpace,
) -> str:
    scores = []
    for entry, answer in zip(columns, answers, strict=True):
        if answer is None:
            scores.append(f"{entry.title} not trained for {pick.split.modality}")
            continue
        matrix = ConfusionMatrix(space.native(pick.split.reader.native).num_classes)
        matrix.update(pick.item.labels, answer)
        scores.append(f"{entry.title} {100 * matrix.miou():.1f}")
    failures = {name for failure in FAILURES for name in failure.groups}
    groups = [group for group in pick.item.groups if group not in failures]
    words = [*([pick.failure] if pick.failure else []), pick.split.title, pick.item.name, *groups]
    return f"{', '.join(words)}; mIoU: {', '.join(scores)}"
