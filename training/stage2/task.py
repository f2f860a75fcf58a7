"""Stage 2: SegRGB-X trained beside a frozen MA-CLIP."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import PartialState
from torch import Tensor, nn

from segrgbx_core.base.config import to_plain
from segrgbx_core.base.errors import ConfigError
from segrgbx_core.base.tables import markdown_table, percent
from segrgbx_core.labels.overlay import Picture
from segrgbx_core.model import build_model
from segrgbx_core.model.tensor_files import SUFFIX
from segrgbx_core.runtime.checkpoint import Contract, save_checkpoint
from training.data.augment import Variant
from training.data.config import require_paper_modalities
from training.data.datasets import Reader, joined_space, samples_text
from training.data.embeddings import (
    WholeFrames,
    embed_frames,
    embeddings_path,
    fingerprint,
    kept_embeddings,
    read_embeddings,
    sequences_of,
    write_embeddings,
)
from training.data.mixing import (
    COUNTED_FRAMES,
    JointDataset,
    StepSampler,
    TrainingSplit,
    count_classes,
    plan_draws,
    read_steps,
    shares,
)
from training.data.preparation import Preparation
from training.engine.batch_norm import BatchNormMode
from training.engine.config import in_steps, require_stretch, scoring_options
from training.engine.loop import Batch, Loop
from training.engine.run import git_commit, run_folder, without_places
from training.eval.scoring import EvalOptions, evaluate, prediction_sheet
from training.stage2.config import SegmentationRun
from training.stage2.losses import (
    ClassWeights,
    SegmentationLoss,
    inverse_root_weights,
    median_frequency_weights,
    tabled_weights,
)
from training.stage2.objective import SegmentationObjective
from training.stage2.pretrained import (
    build_ma_clip,
    freeze,
    label_space_of_run,
    load_encoder,
    load_weights,
)

log = logging.getLogger(__name__)


class SegmentationTask:
    """Data, checkpoints and scores of stage 2; see `training.engine.loop.Task`."""

    def __init__(self, config: SegmentationRun) -> None:
        _check(config)
        self._commit = git_commit()  # now: the checkout may change while the run goes on
        self.readers = [data.open(data.train_split) for data in config.data]
        self.label_space = label_space_of_run(config, self.readers)
        for reader in self.readers:
            if hasattr(reader, "label_space"):  # nobody has published what is in it
                log.info("%s", _counted(reader))
        self.samples: Mapping[str, str] = {
            f"data.{position}": samples_text(reader)
            for position, reader in enumerate(self.readers)
        }
        run = in_steps(config.run, sum(map(len, self.readers)))
        self.config = config = config.model_copy(update={"run": run})
        sizes = {str(position): len(reader) for position, reader in enumerate(self.readers)}
        stated = {str(position): data.share for position, data in enumerate(config.data)}
        self.weights = list(shares(sizes, stated, config.run.sampling).values())
        self.ma_clip = build_ma_clip(config)
        self.preparation = Preparation(
            self.label_space,
            config.encoding,
            config.sensor,
            config.augment,
            config.run.keep_frames,
        )
        sources = [
            TrainingSplit(reader, sequences=sequences_of(reader)) for reader in self.readers
        ]
        if config.clip.full_frame and config.model.use_ma_clip:
            sources = [
                replace(source, embeddings=self._embedded(position, source.reader))
                for position, source in enumerate(sources)
            ]
        self.dataset = self._dataset(sources)
        loss = SegmentationLoss(self.label_space, config.loss, self._class_weights(sources))
        torch.manual_seed(config.run.seed)
        model = build_model(config.model, self.label_space.num_classes, self.ma_clip.embed_dim)
        if config.encoder_weights:
            load_encoder(model, config.encoder_weights)
        if config.init:
            load_weights(model, config.init, self.label_space)
        freeze(model, config.freeze)
        self.objective: nn.Module = SegmentationObjective(
            model, self.ma_clip, loss, config.run.channels_last, config.input.pad
        )
        self.model = model

    def batches(self, first_step: int, rank: int, world: int) -> Iterator[Batch]:
        """Batches of this rank from a step on."""
        run = self.config.run
        sampler = StepSampler(self.dataset.plan, first_step, run.batch_size, rank, world)
        return read_steps(self.dataset, sampler, run.workers)

    def save(self, path: Path, step: int, scores: Mapping[str, float]) -> None:
        """Writes a checkpoint with the full contract."""
        dtype = torch.float16 if self.config.run.half_checkpoints else None
        save_checkpoint(path, self.model, self.ma_clip, self.contract(step, scores), dtype)

    def contract(self, step: int, scores: Mapping[str, float]) -> Contract:
        """What a checkpoint of this run promises."""
        config, clip = self.config, self.config.clip
        return Contract(
            model=config.model,
            ma_clip=config.ma_clip,
            encoding=config.encoding,
            input=config.input,
            label_space=self.label_space.to_dict(),
            modalities=tuple(dict.fromkeys(data.modality for data in config.data)),
            native_spaces=tuple(dict.fromkeys(reader.native for reader in self.readers)),
            provenance={
                "run": without_places(to_plain(config)),
                "commit": self._commit,
                "torch": torch.__version__,
                "steps": step,
                "scores": dict(scores),
                "ma_clip_weights": Path(clip.checkpoint or clip.weights or "random").name,
                "ma_clip_adapters": Path(clip.adapters).name,
            },
        )

    def score(self, path: Path) -> dict[str, float]:
        """Mean IoU on every val split in its own classes; `score` is the mean of them."""
        scores: dict[str, float] = {}
        for name, reader in self._val_readers():
            limit, sensor = self.config.run.score_samples, self.config.sensor
            options = EvalOptions(limit=limit)
            report = evaluate(path, reader, scoring_options(self.config.run), sensor, options)
            scores[name] = report.miou
        scores["score"] = sum(scores.values()) / len(scores)
        return scores

    def draw(self, path: Path) -> dict[str, Picture]:
        """A sheet per val split: RGB, X, truth, answer."""
        run, sensor = self.config.run, self.config.sensor
        options = scoring_options(run)
        return {
            name: prediction_sheet(path, reader, run.pictures, sensor, options)
            for name, reader in self._val_readers()
        }

    def _val_readers(self) -> Iterator[tuple[str, Reader]]:
        names: set[str] = set()
        for position, data in enumerate(self.config.data):
            is_own = hasattr(self.readers[position], "label_space")
            title = self.readers[position].native if is_own else data.reader
            name = f"{title}_{data.modality}"
            name = f"{name}_{position}" if name in names else name
            names.add(name)
            yield name, data.open(data.val_split)

    def _dataset(self, sources: Sequence[TrainingSplit]) -> JointDataset:
        run = self.config.run
        sizes = [len(source.reader) for source in sources]
        plan = plan_draws(sizes, self.weights, run.steps * run.batch_size, run.seed)
        return JointDataset(
            sources, plan, self.preparation, run.batch_size, self.config.clip.stale
        )

    def _class_weights(self, sources: Sequence[TrainingSplit]) -> Tensor | None:
        config, frequencies = self.config.loss, None
        if config.class_weights is not ClassWeights.NONE:
            counts = count_classes(sources, self.weights, self.label_space)
            most = config.max_class_weight
            if config.class_weights is ClassWeights.MEDIAN_FREQUENCY:
                weights = median_frequency_weights(counts.pixels, counts.around, most)
            else:
                weights = inverse_root_weights(counts.pixels, most)
            frequencies = torch.from_numpy(weights)
        return tabled_weights(self.label_space, config.class_weight_table, frequencies)

    def _embedded(self, position: int, reader: Reader) -> Tensor:
        config, data = self.config, self.config.data[position]
        mark = fingerprint(self.ma_clip, reader, self.preparation, config.input)
        if config.clip.embeddings:
            path = embeddings_path(config.clip.embeddings, reader, data.train_split)
            return read_embeddings(path, mark)
        # Kept on disk: a resumed run and other processes must see the very same numbers.
        path = Path(config.run.out) / f"embeddings_{position}{SUFFIX}"
        mark = f"{mark} {json.dumps(to_plain(data), sort_keys=True)} {samples_text(reader)}"
        state = PartialState(cpu=config.run.device == "cpu")
        with state.main_process_first():
            kept = kept_embeddings(path, mark)
            if kept is not None:
                return kept
            variants, indices = tuple(Variant), range(len(reader))
            frames = WholeFrames(reader, self.preparation, config.input, variants, indices)
            embeddings = embed_frames(frames, self.ma_clip.to(state.device), config.run.workers)
            write_embeddings(path, embeddings, mark)
        return embeddings


def _counted(reader: Reader) -> str:
    """A table of the classes in a training split."""
    space = joined_space([reader], None)
    counts = count_classes([TrainingSplit(reader)], [1.0], space)
    looked = min(len(reader), COUNTED_FRAMES)
    own = space.native(reader.native)
    rows = [
        (name, percent(counts.pixels[place] / 1e9, 3), counts.frames[place])
        for name, place in zip(own.names, own.to_unified, strict=True)
    ]
    title = f"{reader.native}: classes in {looked} of {len(reader)} training frames"
    return f"{title}\n{markdown_table(('class', 'pixels %', 'frames'), rows, padded=True)}"


def _check(config: SegmentationRun) -> None:
    """Refuses options that exclude each other; warns of those that do nothing."""
    require_stretch(config.input)
    require_paper_modalities(config.data, config.encoding)
    if config.init and config.encoder_weights:
        raise ConfigError("init and encoder_weights: are both set; init brings the encoder too")
    if config.clip.stale.probability > 0 and not config.clip.full_frame:
        raise ConfigError("clip.stale: needs clip.full_frame, which computes embeddings ahead")
    if config.run.batch_norm is BatchNormMode.FROZEN and not config.init:
        log.warning("run.batch_norm: frozen without init; BatchNorm does not normalise anything")


def train(config: SegmentationRun) -> Path:
    """Trains to the end of the run; returns the path of the best checkpoint."""
    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    with run_folder(config.run.out, config):
        task = SegmentationTask(config)
        config = task.config
        count = sum(values.numel() for values in task.model.parameters())
        log.info(
            "SegRGB-X with %.2f M parameters, %d classes, %d samples, %d steps of %d",
            count / 1e6, task.label_space.num_classes, sum(len(reader) for reader in task.readers),
            config.run.steps, config.run.batch_size,
        )  # fmt: skip
        Loop(task, config.run, config.optimizer, config).train()
    return Path(config.run.out) / "best.safetensors"
