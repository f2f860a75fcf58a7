"""Samples of a data set through a `Segmenter`: into one confusion matrix, and onto a sheet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from segrgbx_core.base.errors import DataError, EncodingError
from segrgbx_core.base.samples import Array
from segrgbx_core.labels.label_space import UNIFIED
from segrgbx_core.labels.metrics import ConfusionMatrix
from segrgbx_core.labels.overlay import Picture, blend, contact_sheet, present_ids
from segrgbx_core.runtime.segmenter import InferenceConfig, Segmenter
from segrgbx_core.sensors import EncodingConfig, SensorConfig, encode
from training.data.datasets import Labelled, Reader, require_same_classes, sensor_of, spread
from training.eval.eval_data import EvalSplit, split_of
from training.eval.protocols import protocol_of
from training.eval.report import Conditions, Report
from training.eval.test_time_augmentation import SINGLE_PASS, TtaConfig, TtaSegmenter


@dataclass(frozen=True)
class EvalOptions:
    """How a split is scored.

    Attributes:
        augmentation: which views of a frame are averaged; by default the frame as it is, once.
        space: empty scores in the data set's own classes (argmax among them, as in the paper);
            `unified` lets the model answer any class, and answers outside the data set are wrong.
        limit: number of samples, evenly spread; 0 for all.
        batch_size: samples or windows per forward pass; changes no result.
        workers: threads that read ahead; 0 reads when a sample is due.
        progress: True draws a bar with the time that is left.
    """

    augmentation: TtaConfig = SINGLE_PASS
    space: str = ""
    limit: int = 0
    batch_size: int = 4
    workers: int = 0
    progress: bool = False


def evaluate(
    checkpoint: Path | str,
    reader: Reader,
    config: InferenceConfig | None = None,
    sensors: SensorConfig | None = None,
    options: EvalOptions = EvalOptions(),
) -> Report:
    """Scores a checkpoint on a reader's samples.

    Args:
        checkpoint: file to load.
        reader: what to score on.
        config: device, precision and size.
        sensors: facts about the data set's sensors, where its reader does not state them.
        options: how they are scored.

    Raises:
        DataError: naming the file or sample that cannot be read or does not fit.
        ConfigError: when the checkpoint lacks the data set's classes.
        CheckpointError: when the checkpoint is broken or was not trained for the modality.
    """
    return evaluate_splits(checkpoint, [split_of(reader, sensors)], config, options)


def evaluate_splits(
    checkpoint: Path | str,
    splits: Sequence[EvalSplit],
    config: InferenceConfig | None = None,
    options: EvalOptions = EvalOptions(),
) -> Report:
    """Scores a checkpoint on several splits of one data set and modality, pooled.

    Args:
        checkpoint: file to load.
        splits: at least one.
        config: device, precision and size.
        options: how samples are scored; the limit holds for each split.

    Raises:
        as `evaluate`.
    """
    native = splits[0].reader.native
    space = options.space or native
    counts: _Counts | None = None
    for split in splits:
        # One at a time: splits of one data set may differ in their sensors.
        segmenter = Segmenter.from_checkpoint(checkpoint, config, split.sensors, label_space=space)
        require_same_classes(split.reader, segmenter.label_space, f"checkpoint {checkpoint}")
        counts = counts or _Counts(segmenter, space)
        group = split.folder if len(splits) > 1 else ""
        for item, labels in _predictions(segmenter, split, options):
            counts.add(item, labels, native, group)
    assert counts is not None, "at least one split"
    conditions = _conditions(splits, options.augmentation, segmenter)
    unified = " (any class)" if space == UNIFIED else ""
    return Report(
        checkpoint=Path(checkpoint).name,
        hash=segmenter.checkpoint.hash,
        data=f"{conditions.column}{unified}",
        space=space,
        names=tuple(segmenter.classes.names),
        matrix=counts.matrix,
        protocol=protocol_of(segmenter.label_space, space, native),
        conditions=conditions,
        groups=counts.groups,
        sizes=dict(counts.sizes),
        samples=counts.samples,
    )


class _Counts:
    """Confusion matrices of one data set, over all samples and by group."""

    def __init__(self, segmenter: Segmenter, space: str) -> None:
        self._space, self._label_space = space, segmenter.label_space
        self._num_classes = len(segmenter.classes.names)
        self.matrix = ConfusionMatrix(self._num_classes)
        self.groups: dict[str, ConfusionMatrix] = {}
        self.sizes: Counter[str] = Counter()
        self.samples = 0

    def add(self, item: Labelled, labels: NDArray[np.uint8], native: str, group: str = "") -> None:
        """Counts one sample, also in its groups; `group` is for samples that have none."""
        own = ConfusionMatrix(self._num_classes)
        try:
            truth = item.labels
            if self._space == UNIFIED:
                truth = self._label_space.unify(truth, native)
            own.update(truth, labels)
        except DataError as error:
            raise DataError(f"{native}: sample '{item.name}': {error}") from None
        self.matrix.merge(own)
        self.samples += 1
        for name in item.groups or ((group,) if group else ()):
            self.groups.setdefault(name, ConfusionMatrix(self._num_classes)).merge(own)
            self.sizes[name] += 1


def _predictions(
    segmenter: Segmenter, split: EvalSplit, options: EvalOptions
) -> Iterator[tuple[Labelled, NDArray[np.uint8]]]:
    """Samples of a split with the labels that the model gives them."""
    reader, augmentation = split.reader, options.augmentation
    if len(reader) == 0:
        raise DataError(f"{reader.native}: the split has no samples to score")
    indices = spread(len(reader), options.limit)
    averaged = None
    if not augmentation.is_single_pass:
        averaged = TtaSegmenter(segmenter, augmentation, options.batch_size)
    bar = tqdm(
        total=len(indices),
        unit="sample",
        desc=f"{reader.native} {split.split}".strip(),
        disable=not options.progress,
        leave=False,
    )
    with bar:
        for items in _read(reader, indices, options):
            yield from zip(items, _labels(segmenter, averaged, items, reader.native), strict=True)
            bar.update(len(items))


def _labels(
    segmenter: Segmenter, averaged: TtaSegmenter | None, items: Sequence[Labelled], native: str
) -> list[NDArray[np.uint8]]:
    try:
        if averaged is not None:
            return [averaged.labels(item.sample) for item in items]
        return [answer.labels for answer in segmenter.predict([item.sample for item in items])]
    except EncodingError as error:
        if len(items) == 1:
            raise DataError(f"{native}: sample '{items[0].name}': {error}") from None
    # One of them is at fault: run one by one, the error can name it.
    return [_labels(segmenter, averaged, [item], native)[0] for item in items]


def _read(
    reader: Reader, indices: Sequence[int], options: EvalOptions
) -> Iterator[list[Labelled]]:
    """Samples in batches, read ahead by threads where `options.workers` says so."""
    size = options.batch_size
    batches = [indices[start : start + size] for start in range(0, len(indices), size)]
    if options.workers == 0:
        for batch in batches:
            yield [reader[index] for index in batch]
        return
    with ThreadPoolExecutor(options.workers) as pool:
        ahead = [[pool.submit(reader.__getitem__, index) for index in batches[0]]]
        try:
            for following in [*batches[1:], []]:
                ahead.append([pool.submit(reader.__getitem__, index) for index in following])
                yield [future.result() for future in ahead.pop(0)]
        finally:
            for future in (future for batch in ahead for future in batch):
                future.cancel()


def _conditions(
    splits: Sequence[EvalSplit], augmentation: TtaConfig, segmenter: Segmenter
) -> Conditions:
    reader = splits[0].reader
    contract = segmenter.contract
    run = contract.provenance.get("run", {})
    names = list(dict.fromkeys(split.split for split in splits))
    published = protocol_of(segmenter.label_space, reader.native, reader.native).counts
    num_samples = sum(len(split.reader) for split in splits)
    return Conditions(
        native=reader.native,
        modality=str(reader.modality),
        split=" + ".join(filter(None, names)),
        options=splits[0].options,
        whole=published.get(names[0], num_samples) if len(names) == 1 else num_samples,
        views=augmentation.text(segmenter.input.height, segmenter.input.width),
        device=segmenter.device_name,
        precision=segmenter.precision,
        architecture=contract.model.architecture,
        trained_on=contract.native_spaces,
        started_from=str(run.get("init", "")),
        is_random=contract.is_random,
        is_synthetic=any(split.is_synthetic for split in splits),
    )


def prediction_sheet(
    checkpoint: Path | str,
    reader: Reader,
    count: int,
    sensors: SensorConfig | None = None,
    config: InferenceConfig | None = None,
) -> Picture:
    """A sheet of evenly spread samples: RGB, X as the model sees it, truth and answer over RGB.

    Args:
        checkpoint: file to load.
        reader: samples with truth.
        count: rows, at least 1.
        sensors: facts about the data set's sensors, where its reader does not state them.
        config: device and precision.

    Returns:
        uint8 (H, W, 3) with a legend of the classes that occur in truth or answers.
    """
    sensor = sensor_of(reader, sensors)
    segmenter = Segmenter.from_checkpoint(checkpoint, config, sensor, label_space=reader.native)
    encoding: EncodingConfig = segmenter.contract.encoding
    native = segmenter.label_space.native(reader.native)
    palette = native.palette_array()
    items = [reader[index] for index in spread(len(reader), count)]
    predicted = [one.labels for one in segmenter.predict([item.sample for item in items])]
    rows: list[list[Array | None]] = [
        [
            item.sample.rgb,
            encode(item.sample, encoding, sensor),
            blend(item.sample.rgb, item.labels, palette),
            blend(item.sample.rgb, labels, palette),
        ]
        for item, labels in zip(items, predicted, strict=True)
    ]
    shown = present_ids(*(item.labels for item in items), *predicted)
    return contact_sheet(
        rows,
        ("RGB", reader.modality.facts.title, "truth", "answer"),
        [" ".join((item.name, *item.groups)) for item in items],
        heading=f"{native.name}, {reader.modality}",
        legend_classes=(native.names, palette, shown),
    )
