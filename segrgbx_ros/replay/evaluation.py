"""Segments a recording through the node's own decoding, pairing and model, and scores it.

Frames are segmented one by one in the order in which pairs complete; none is skipped for lack of
time. The receive times of the recording are the clock, so a second run gives the same labels.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segrgbx_core.base.config import to_plain
from segrgbx_core.base.errors import DataError, EncodingError, SegrgbxError
from segrgbx_core.base.samples import NS_PER_MS, Prediction, RgbxSample
from segrgbx_core.base.tables import Summary
from segrgbx_core.labels.metrics import ConfusionMatrix
from segrgbx_ros.config.node import NodeConfig, Stream
from segrgbx_ros.messages.events.arrays import TYPES as ARRAY_TYPES
from segrgbx_ros.messages.geometry import resized_ids
from segrgbx_ros.messages.images import stamp_ns
from segrgbx_ros.pairing.fused import (
    FusedFrame,
    FusedFrames,
    FuseRule,
    Member,
    read_members,
    rgb_alone,
)
from segrgbx_ros.pairing.pipeline import X_EMPTY, EmptyXError, Pair, Pipeline
from segrgbx_ros.pairing.published_labels import PairLabels, PairPredictor, pair_labels
from segrgbx_ros.replay.bags import Bag, Recorded
from segrgbx_ros.replay.ground_truth import GroundTruth, translator
from segrgbx_ros.replay.report import PairReport, Report, Scores
from segrgbx_ros.replay.topic_routes import Routes
from segrgbx_ros.replay.writers import FrameWriter, SegmentedFrame

if TYPE_CHECKING:
    from segrgbx_core.runtime.segmenter import Segmenter

RANDOM = "the weights are random: labels and scores mean nothing"
UNREADABLE = "unreadable"
"""Cause under which messages are counted that cannot be decoded."""


@dataclass
class _Tally:
    """Running results of one pair."""

    received: Counter[Stream] = field(default_factory=Counter)
    paired: int = 0
    held: int = 0
    rgb_only: int = 0
    unreadable: int = 0
    empty: int = 0
    first_fault: str = ""
    skews_ms: list[float] = field(default_factory=list)
    stages_ms: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    confusion: ConfusionMatrix | None = None
    scored: int = 0
    unlabeled: int = 0
    too_few: int = 0
    faults: Counter[str] = field(default_factory=Counter)

    def refuse(self, error: SegrgbxError) -> None:
        """Counts a message that cannot be decoded."""
        self.unreadable += 1
        self.first_fault = self.first_fault or str(error)


def evaluate(
    bag: Bag,
    config: NodeConfig,
    segmenter: Segmenter,
    routes: Routes,
    truths: Mapping[str, GroundTruth] | None = None,
    writers: Sequence[FrameWriter] = (),
    on_message: Callable[[Recorded], object] | None = None,
) -> Report:
    """Segments every pair of a recording.

    Args:
        bag: open recording.
        config: node options.
        segmenter: the model.
        routes: which topic feeds which input.
        truths: by pair.
        writers: get every frame.
        on_message: gets every message of the inputs before it is taken.

    Raises:
        DataError: when nothing could be segmented, or truth does not fit; says why.
    """
    began = time.monotonic()
    run = _Run(config, segmenter, _pair_names(routes), truths or {}, writers)
    complete = complete_pairs(bag, routes, run.push, run.pipeline.flush, run.refuse, on_message)
    for received_ns, paired in complete:
        run.take(paired, received_ns)
    run.finish()
    report = run.report(bag, routes, time.monotonic() - began)
    _explain_nothing(report)
    return report


def complete_pairs(
    bag: Bag,
    routes: Routes,
    push: Callable[[str, Stream, Any, int], Sequence[Pair]],
    flush: Callable[[], Sequence[Pair]],
    refuse: Callable[[str, Stream, DataError], object],
    on_message: Callable[[Recorded], object] | None = None,
) -> Iterator[tuple[int, Pair]]:
    """Pairs of a recording in the order in which they complete.

    Args:
        bag: open recording.
        routes: which topic feeds which input.
        push: takes a message of a pair's stream with the time, as `Pipeline.push_message`.
        flush: as `Pipeline.flush`.
        refuse: gets the pair, the stream and what is wrong with a message that cannot be read.
        on_message: gets every message of the inputs before it is taken.

    Yields:
        the receive time that completed a pair, in ns, and the pair.
    """
    last_ns = 0
    for recorded in bag.messages(routes.inputs.keys()):
        # Receive times are the clock here; one that steps back must not run the waiting backward.
        last_ns = max(last_ns, recorded.receive_ns)
        if on_message:
            on_message(recorded)
        for pair, stream in routes.inputs[recorded.topic]:
            try:
                is_array = recorded.type in ARRAY_TYPES
                message = recorded.raw if is_array else bag.decode(recorded)
            except DataError as error:
                refuse(pair, stream, error)
                continue
            for paired in push(pair, stream, message, last_ns):
                yield last_ns, paired
    for paired in flush():
        yield last_ns, paired


class _Run:
    """State of one replay."""

    def __init__(
        self,
        config: NodeConfig,
        segmenter: Segmenter,
        pairs: Sequence[str],
        truths: Mapping[str, GroundTruth],
        writers: Sequence[FrameWriter],
    ) -> None:
        self.config = config
        self.segmenter = segmenter
        self.pipeline = Pipeline(config, segmenter.contract.encoding)
        self.labels: dict[str, PairLabels] = pair_labels(config, segmenter)
        self._predictor = PairPredictor(
            segmenter, self.labels, config.label.min_confidence, config.fused_names
        )
        self._frames = FusedFrames(config, pairs)
        self._rule = FuseRule.of(config)
        self._last_ns = 0
        self._truths = dict(truths)
        for name, collector in self._frames.collectors.items():  # one RGB image, one truth
            found = [truths[pair] for pair in collector.members if pair in truths]
            if found:
                self._truths[name] = found[0]
        self._translate = {
            pair: translator(segmenter.label_space, truth.space, self.labels[pair].space)
            for pair, truth in self._truths.items()
        }
        self._writers = writers
        self._tallies: dict[str, _Tally] = defaultdict(_Tally)
        self._stages: dict[str, list[float]] = defaultdict(list)
        self._is_warm = False

    def push(self, pair: str, stream: Stream, message: Any, now_ns: int) -> list[Pair]:
        """Feeds one message to the pipeline."""
        self._tallies[pair].received[stream] += 1
        if stream is Stream.RGB:
            self._frames.on_rgb(pair, stamp_ns(message), now_ns)
        try:
            return self.pipeline.push_message(pair, stream, message, now_ns)
        except EncodingError as error:
            self._tallies[pair].refuse(error)
            return []

    def refuse(self, pair: str, stream: Stream, error: DataError) -> None:
        """Counts a message that cannot be read."""
        self._tallies[pair].received[stream] += 1
        self._tallies[pair].refuse(error)

    def take(self, paired: Pair, received_ns: int) -> None:
        """Segments a pair, or keeps it until its frame is complete."""
        self._last_ns = received_ns
        for one in self._frames.sorted_out([paired], received_ns):
            if isinstance(one, FusedFrame):
                self._fuse(one)
            else:
                self._segment(one)
        for frame in self._frames.poll(received_ns):
            self._fuse(frame)

    def finish(self) -> None:
        """Segments what waits for other members."""
        for frame in self._frames.flush(self._last_ns):
            self._fuse(frame)

    def _segment(self, paired: Pair) -> None:
        """Decodes and segments one pair and hands it on."""
        began = time.perf_counter()
        try:
            sample = paired.sample()
        except EncodingError as error:
            self._refuse(paired, error)
            return
        self._answer(paired, sample, (time.perf_counter() - began) * 1e3)

    def _refuse(self, paired: Pair, error: EncodingError) -> None:
        tally = self._tallies[paired.name]
        if isinstance(error, EmptyXError):
            tally.empty += 1
        else:
            tally.refuse(error)

    def _answer(self, paired: Pair, sample: RgbxSample, read_ms: float) -> Prediction | None:
        """The answer of one pair, handed on; None where the model refuses the sample."""
        tally = self._tallies[paired.name]
        try:
            if not self._is_warm:
                self.segmenter.warm_up(sample.rgb.shape[:2], [sample.modality])
                self._is_warm = True
            prediction = self._predictor.answer(sample, paired.name)
        except EncodingError as error:
            tally.refuse(error)
            return None
        if paired.dt_ns is not None:
            tally.skews_ms.append(paired.dt_ns / NS_PER_MS)
        tally.held += paired.held
        tally.rgb_only += paired.x is None
        stages = {"read": read_ms, **prediction.timings_ms}
        self._hand_on(paired.name, paired, sample, prediction, stages)
        return prediction

    def _fuse(self, frame: FusedFrame) -> None:
        """Segments the members of a frame, hands each on, then the fused answer."""
        tally = self._tallies[frame.name]
        tally.faults.update(f"{pair}: late or dropped" for pair in frame.missing)
        began = time.perf_counter()
        members = read_members(frame)
        read_ms = (time.perf_counter() - began) * 1e3 / max(1, len(members))
        answers: dict[str, Prediction] = {}
        for member in members:
            if member.fault:
                tally.faults[f"{member.pair.name}: {member.fault}"] += 1
            if member.sample is None:
                if member.error is not None:
                    self._refuse(member.pair, member.error)
            elif answer := self._answer(member.pair, member.sample, read_ms):
                answers[member.pair.name] = answer
        there = [one for one in members if one.pair.name in answers]
        used = [one for one in there if one.is_usable]
        rgb = None
        if there and self._rule.asks_rgb(members):
            rgb = self._rgb_answer(frame.name, (used or there)[0], there, answers)
        parts = [answers[one.pair.name] for one in used]
        if len(used) < self._rule.min_members:
            if rgb is None or not self._rule.answers_rgb_alone:
                tally.too_few += 1
                return
            tally.rgb_only += 1
            parts, rgb = [rgb], None
        first = (used or there)[0]
        assert first.sample is not None
        prediction = self._predictor.fuse(frame.name, parts, rgb if len(parts) > 1 else None)
        self._hand_on(frame.name, first.pair, first.sample, prediction, prediction.timings_ms)

    def _rgb_answer(
        self, name: str, first: Member, there: Sequence[Member], answers: Mapping[str, Prediction]
    ) -> Prediction:
        """The answer to RGB alone: that of a member which went without X, or one more."""
        black = next((one.pair.name for one in there if one.is_black), None)
        if black is not None:
            return answers[black]
        assert first.sample is not None
        return self._predictor.answer(rgb_alone(first.sample), name)

    def _hand_on(
        self,
        name: str,
        paired: Pair,
        sample: RgbxSample,
        prediction: Prediction,
        stages: Mapping[str, float],
    ) -> None:
        """Counts, scores and hands on an answer of the pair or fused mask of this name."""
        tally = self._tallies[name]
        for stage, value in {**stages, "total": sum(stages.values())}.items():
            if name == paired.name:
                self._stages[stage].append(value)
            tally.stages_ms[stage].append(value)
        truth = self._score(name, paired, sample.rgb.shape[:2], prediction.labels)
        frame = SegmentedFrame(
            pair=name,
            number=tally.paired,
            sample=sample,
            prediction=prediction,
            truth=truth,
            receive_ns=self._last_ns,
            rgb_info=paired.rgb_info,
        )
        tally.paired += 1
        for writer in self._writers:
            writer.on_frame(frame)

    def report(self, bag: Bag, routes: Routes, wall_s: float) -> Report:
        """What has been found."""
        segmenter = self.segmenter
        provenance = dict(segmenter.contract.provenance)
        return Report(
            recording=str(bag.path),
            recording_s=bag.duration_s,
            checkpoint={
                "path": self.config.model.checkpoint,
                "hash": segmenter.checkpoint.hash,
                "provenance": provenance,
            },
            label_space={
                "name": segmenter.classes.space,
                "hash": segmenter.classes.hash,
                "classes": len(segmenter.classes.names),
            },
            device=f"{segmenter.device_name}, {segmenter.precision}",
            config=to_plain(self.config),
            pairs={pair: self._pair_report(pair, routes) for pair in _pair_names(routes)}
            | {name: self._fused_report(name, routes) for name in self._frames.collectors},
            notes=(
                *routes.notes,
                *(
                    f"fused mask '{name}' is left out: not all of its pairs are replayed"
                    for name in self.config.fuse.members().keys() - self._frames.collectors.keys()
                ),
                *bag.warnings,
                *([RANDOM] if segmenter.contract.is_random else []),
            ),
            stages_ms={name: Summary.of(values) for name, values in self._stages.items()},
            wall_s=wall_s,
        )

    def _pair_report(self, pair: str, routes: Routes) -> PairReport:
        tally, counts = self._tallies[pair], self.pipeline[pair].counts
        dropped = {cause: count for cause, count in counts.dropped.items() if count}
        if tally.empty:
            dropped[X_EMPTY] = tally.empty
        if tally.unreadable:
            dropped[UNREADABLE] = tally.unreadable
        streams = self.config.streams(pair)
        return PairReport(
            modality=self.config.pair(pair).modality.value,
            label_space=self.labels[pair].classes.space,
            topics={name: routes.topic(pair, stream) for name, stream in streams.items()},
            rgb=tally.received[Stream.RGB],
            x=min(tally.received[one] for one in self.config.pair(pair).x_streams.values()),
            paired=tally.paired,
            held=tally.held,
            rgb_only=tally.rgb_only,
            x_empty=self.pipeline[pair].reader.num_empty,
            x_problem=self.pipeline[pair].reader.first_problem,
            dropped=dropped,
            dropped_x={cause: count for cause, count in counts.dropped_x.items() if count},
            skew_ms=Summary.of([abs(value) for value in tally.skews_ms]),
            mean_offset_ms=float(np.mean(tally.skews_ms)) if tally.skews_ms else 0.0,
            jumps=counts.jumps,
            lost_events=counts.lost_events,
            cut_events=counts.cut_events,
            first_fault=tally.first_fault,
            scores=self._scores(pair),
            stages_ms={name: Summary.of(values) for name, values in tally.stages_ms.items()},
        )

    def _fused_report(self, name: str, routes: Routes) -> PairReport:
        tally, collector = self._tallies[name], self._frames.collectors[name]
        return PairReport(
            modality="fused",
            label_space=self.labels[name].classes.space,
            topics={"rgb": routes.topic(collector.members[0], Stream.RGB)},
            rgb=collector.opened,
            x=0,
            paired=tally.paired,
            held=0,
            rgb_only=tally.rgb_only,
            dropped={"too_few_members": tally.too_few} if tally.too_few else {},
            dropped_x={},
            skew_ms=Summary.of([]),
            members=collector.members,
            faults=dict(sorted(tally.faults.items())),
            scores=self._scores(name),
            stages_ms={stage: Summary.of(values) for stage, values in tally.stages_ms.items()},
        )

    def _scores(self, name: str) -> Scores | None:
        tally = self._tallies[name]
        if tally.confusion is None:
            return None
        names = tuple(self.labels[name].classes.names)
        return Scores(names, tally.confusion, tally.scored, tally.unlabeled)

    def _score(
        self, name: str, paired: Pair, rgb_size: tuple[int, int], labels: NDArray[np.uint8]
    ) -> NDArray[np.uint8] | None:
        """Truth of a frame in the published label space, after it was counted on RGB's grid."""
        ground_truth, tally = self._truths.get(name), self._tallies[name]
        if ground_truth is None:
            return None
        if tally.confusion is None:
            tally.confusion = ConfusionMatrix(len(self.labels[name].classes.names))
        truth = ground_truth.labels(paired.rgb_stamp_ns)
        if truth is None:
            tally.unlabeled += 1
            return None
        if truth.shape != rgb_size:
            raise DataError(
                f"truth of pair '{paired.name}' at {paired.rgb_stamp_ns} ns is "
                f"{truth.shape[1]}x{truth.shape[0]}, its RGB image {rgb_size[1]}x"
                f"{rgb_size[0]}; truth must lie on the RGB image's grid"
            )
        own = self.labels[name]
        truth = own.grouped(self._translate[name](truth))
        answer = resized_ids(labels, rgb_size)
        tally.confusion.update(own.classes.positions(truth), own.classes.positions(answer))
        tally.scored += 1
        return truth


def _pair_names(routes: Routes) -> list[str]:
    names = [pair for uses in routes.inputs.values() for pair, _ in uses]
    return list(dict.fromkeys(names))


def _explain_nothing(report: Report) -> None:
    """Raises when no frame could be segmented, or no truth fitted."""
    if report.paired == 0:
        reasons = []
        for name, pair in report.pairs.items():
            causes = ", ".join(f"{cause} {count}" for cause, count in sorted(pair.dropped.items()))
            reasons.append(
                f"pair '{name}': {pair.rgb} RGB and {pair.x} X images ({causes or 'no drops'}) "
                f"{pair.first_fault or pair.x_problem}".rstrip()
            )
        raise DataError(f"{report.recording}: nothing to segment; {'; '.join(reasons)}")
    for name, pair in report.pairs.items():
        if pair.scores is not None and pair.scores.frames == 0 and pair.paired:
            raise DataError(
                f"{report.recording}: pair '{name}': no truth has the stamp of an RGB image; "
                "truth must carry exactly the RGB stamp"
            )
