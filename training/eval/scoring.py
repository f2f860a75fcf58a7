"""The loop that scores: samples of a data set through a `Segmenter` into one confusion matrix."""

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
from segrgbx_core.labels.label_space import UNIFIED
from segrgbx_core.labels.metrics import ConfusionMatrix
from segrgbx_core.runtime.segmenter import InferenceConfig, Segmenter
from segrgbx_core.sensors import SensorConfig
from training.data.datasets import Labelled, Reader, sensor_of, spread
from training.data.datasets.synthetic import is_rendered
from training.eval.eval_data import Source, source_of
from training.eval.protocols import protocol_of
from training.eval.report import Report, Subject
from training.eval.test_time_augmentation import ViewConfig, Viewer


@dataclass(frozen=True)
class Pace:
    """How samples are gone through; changes no result.

    Attributes:
        limit: number of samples, evenly spread; 0 for all.
        batch_size: samples or windows per forward pass.
        workers: threads that read ahead; 0 reads when a sample is due.
        progress: True draws a bar with the time that is left.
    """

    limit: int = 0
    batch_size: int = 4
    workers: int = 0
    progress: bool = False


def evaluate(
    checkpoint: Path | str,
    reader: Reader,
    config: InferenceConfig | None = None,
    sensors: SensorConfig | None = None,
    space: str = "",
    limit: int = 0,
    batch_size: int = 4,
    views: ViewConfig | None = None,
) -> Report:
    """Scores a checkpoint on a reader's samples.

    Args:
        checkpoint: file to load.
        reader: what to score on.
        config: device, precision and size.
        sensors: facts about the data set's sensors, where its reader does not state them.
        space: empty scores in the data set's own classes (argmax among them, as in the paper);
            `unified` lets the model answer any class, and answers outside the data set are wrong.
        limit: number of samples, evenly spread; 0 for all.
        batch_size: samples per forward pass.
        views: which views of a frame are averaged; None: the frame as it is, once.

    Raises:
        DataError: naming the file or sample that cannot be read or does not fit.
        ConfigError: when the checkpoint does not know the data set's classes.
        CheckpointError: when the checkpoint is broken or was not trained for the modality.
    """
    pace = Pace(limit, batch_size)
    return evaluate_sources(checkpoint, [source_of(reader, sensors)], config, views, pace, space)


def evaluate_sources(
    checkpoint: Path | str,
    sources: Sequence[Source],
    config: InferenceConfig | None = None,
    views: ViewConfig | None = None,
    pace: Pace = Pace(),
    space: str = "",
) -> Report:
    """Scores a checkpoint on the samples of several readers of one data set, pooled.

    Args:
        checkpoint: file to load.
        sources: readers of one data set and modality.
        config: device, precision and size.
        views: which views of a frame are averaged; None: the frame as it is, once.
        pace: how samples are gone through; its limit holds for each source.
        space: as `evaluate`.

    Raises:
        as `evaluate`.
    """
    views = views or ViewConfig()
    native = sources[0].reader.native
    space = space or native
    tally: _Tally | None = None
    for source in sources:
        # One at a time: readers of one data set may differ in their sensors.
        sensors = sensor_of(source.reader, source.sensors)
        segmenter = Segmenter.from_checkpoint(checkpoint, config, sensors, label_space=space)
        tally = tally or _Tally(segmenter, space)
        group = source.name if len(sources) > 1 else ""
        for item, labels in _answered(segmenter, source, views, pace):
            tally.add(item, labels, native, group)
    assert tally is not None, "at least one source"
    return tally.report(sources, views, segmenter, Path(checkpoint).name)


class _Tally:
    """Counts of one data set while samples come in."""

    def __init__(self, segmenter: Segmenter, space: str) -> None:
        self.space, self.names = space, tuple(segmenter.classes.names)
        self.label_space = segmenter.label_space
        self.matrix = ConfusionMatrix(len(self.names))
        self.groups: dict[str, ConfusionMatrix] = {}
        self.sizes: Counter[str] = Counter()
        self.samples = 0

    def add(self, item: Labelled, labels: NDArray[np.uint8], native: str, group: str = "") -> None:
        """Counts one sample, also in its groups; `group` is for samples that have none."""
        own = ConfusionMatrix(len(self.names))
        try:
            truth = item.labels
            if self.space == UNIFIED:
                truth = self.label_space.unify(truth, native)
            own.update(truth, labels)
        except DataError as error:
            raise DataError(f"{native}: sample '{item.name}': {error}") from None
        self.matrix.merge(own)
        self.samples += 1
        for name in item.groups or ((group,) if group else ()):
            self.groups.setdefault(name, ConfusionMatrix(len(self.names))).merge(own)
            self.sizes[name] += 1

    def report(
        self, sources: Sequence[Source], views: ViewConfig, segmenter: Segmenter, checkpoint: str
    ) -> Report:
        """What was found."""
        native = sources[0].reader.native
        subject = _subject(sources, views, segmenter)
        unified = " (any class)" if self.space == UNIFIED else ""
        return Report(
            checkpoint=checkpoint,
            hash=segmenter.checkpoint.hash,
            data=f"{subject.column}{unified}",
            space=self.space,
            names=self.names,
            matrix=self.matrix,
            protocol=protocol_of(self.label_space, self.space, native),
            subject=subject,
            groups=self.groups,
            sizes=dict(self.sizes),
            samples=self.samples,
        )


def _answered(
    segmenter: Segmenter, source: Source, views: ViewConfig, pace: Pace
) -> Iterator[tuple[Labelled, NDArray[np.uint8]]]:
    """Samples of a source with the labels that the model gives them."""
    reader = source.reader
    size = len(reader)
    if size == 0:
        raise DataError(f"{reader.native}: the split has no samples to score")
    chosen = spread(size, pace.limit)
    viewer = None if views.is_plain else Viewer(segmenter, views, pace.batch_size)
    bar = tqdm(
        total=len(chosen),
        unit="sample",
        desc=f"{reader.native} {source.split}".strip(),
        disable=not pace.progress,
        leave=False,
    )
    with bar:
        for items in _read(reader, chosen, pace):
            yield from zip(items, _labels(segmenter, viewer, items, reader.native), strict=True)
            bar.update(len(items))


def _labels(
    segmenter: Segmenter, viewer: Viewer | None, items: Sequence[Labelled], native: str
) -> list[NDArray[np.uint8]]:
    try:
        if viewer is not None:
            return [viewer.labels(item.sample) for item in items]
        return [answer.labels for answer in segmenter.predict([item.sample for item in items])]
    except EncodingError as error:
        if len(items) == 1:
            raise DataError(f"{native}: sample '{items[0].name}': {error}") from None
    # One of them is at fault: asked one by one, the error can name it.
    return [_labels(segmenter, viewer, [item], native)[0] for item in items]


def _read(reader: Reader, chosen: Sequence[int], pace: Pace) -> Iterator[list[Labelled]]:
    """Samples in batches, read ahead by threads where asked."""
    batches = [
        chosen[start : start + pace.batch_size] for start in range(0, len(chosen), pace.batch_size)
    ]
    if pace.workers == 0:
        for batch in batches:
            yield [reader[index] for index in batch]
        return
    with ThreadPoolExecutor(pace.workers) as pool:
        ahead = [[pool.submit(reader.__getitem__, index) for index in batches[0]]]
        try:
            for following in [*batches[1:], []]:
                ahead.append([pool.submit(reader.__getitem__, index) for index in following])
                yield [future.result() for future in ahead.pop(0)]
        finally:
            for future in (future for batch in ahead for future in batch):
                future.cancel()


def _subject(sources: Sequence[Source], views: ViewConfig, segmenter: Segmenter) -> Subject:
    reader = sources[0].reader
    contract = segmenter.contract
    run = contract.provenance.get("run", {})
    splits = list(dict.fromkeys(source.split for source in sources))
    counts = protocol_of(segmenter.label_space, reader.native, reader.native).counts
    found = sum(len(source.reader) for source in sources)
    return Subject(
        native=reader.native,
        modality=str(reader.modality),
        split=" + ".join(filter(None, splits)),
        options=sources[0].options,
        whole=counts.get(splits[0], found) if len(splits) == 1 else found,
        views=views.text(segmenter.input.height, segmenter.input.width),
        device=segmenter.device_name,
        precision=segmenter.precision,
        architecture=contract.model.architecture,
        trained_on=contract.native_spaces,
        started_from=str(run.get("init", "")),
        is_random=contract.is_random,
        is_synthetic=any(is_rendered(reader.native, source.root) for source in sources),
    )
