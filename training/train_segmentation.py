"""Stage 2: trains SegRGB-X beside a frozen MA-CLIP.

python -m training.train_segmentation config/train/demo_thermal.yaml [--set run.steps=100 ...]

The same command again resumes a run that was stopped. One GPU, several (`accelerate launch -m
training.train_segmentation ...`) or a CPU.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import PartialState
from torch import Tensor, nn

from segrgbx_core.base.config import to_plain
from segrgbx_core.base.errors import ConfigError, command
from segrgbx_core.labels.label_space import synthetic_label_space
from segrgbx_core.labels.overlay import Picture
from segrgbx_core.model import RgbxNetwork, build_model
from segrgbx_core.model.ma_clip import ModalityAwareClip
from segrgbx_core.model.tensor_files import SUFFIX
from segrgbx_core.runtime.checkpoint import Contract, save_checkpoint
from training.data.augment import Variant
from training.data.datasets import Reader, open_reader
from training.data.embeddings import (
    WholeFrames,
    embed_frames,
    embeddings_path,
    fingerprint,
    kept_embeddings,
    read_embeddings,
    write_embeddings,
)
from training.data.mixing import (
    JointDataset,
    Preparation,
    Source,
    StepSampler,
    count_classes,
    plan_draws,
    read_steps,
    shares,
)
from training.data.reused_embeddings import sequences_of
from training.engine.batch_norm import BatchNormMode
from training.engine.config import (
    SegmentationRun,
    in_steps,
    read_run,
    require_stretch,
    scoring_options,
)
from training.engine.loop import Batch, Loop
from training.engine.run_folder import git_commit, log_to_terminal, run_folder, without_places
from training.eval.sample_images import answers
from training.evaluate import evaluate
from training.stage2.losses import (
    ClassWeights,
    SegmentationLoss,
    inverse_root_weights,
    sample_points,
    tabled_weights,
)
from training.stage2.pretrained import build_ma_clip, load_encoder, load_weights

log = logging.getLogger(__name__)


class SegmentationObjective(nn.Module):
    """The model with its loss; MA-CLIP stands beside it, neither trained nor part of the state.

    Args:
        model: what is trained.
        ma_clip: frozen; used for batches that bring no embeddings.
        loss: Eq. 8.
        channels_last: image layout.
    """

    def __init__(
        self,
        model: RgbxNetwork,
        ma_clip: ModalityAwareClip,
        loss: SegmentationLoss,
        channels_last: bool,
    ) -> None:
        super().__init__()
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.model = model
        for weight in model.parameters():
            if weight.ndim == 4:
                weight.data = weight.data.contiguous(memory_format=self.layout)
        self.loss = loss
        self._beside = (ma_clip,)

    @property
    def ma_clip(self) -> ModalityAwareClip:
        """The frozen tower."""
        return self._beside[0]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Loss terms of one batch of `JointDataset` items."""
        rgb = batch["rgb"].contiguous(memory_format=self.layout)
        x = batch["x"].contiguous(memory_format=self.layout)
        modality = batch["modality"]
        if "rgb_embedding" in batch:
            embeddings = batch["rgb_embedding"], batch["x_embedding"]
        elif self.model.needs_embeddings:
            embeddings = self.ma_clip.to(rgb.device)(rgb, x, modality)
        else:
            unused = rgb.new_zeros(len(rgb), self.model.embed_dim)
            embeddings = unused, unused
        points = self.loss.config.points
        if points == 0:
            logits, labels = self.model(rgb, x, *embeddings, modality), batch["labels"]
        else:
            scene = self.model.encode_scene(*embeddings, modality)
            coarse = self.model.coarse_logits(rgb, x, scene)
            logits, labels = sample_points(coarse, batch["labels"], points)
        terms: dict[str, Tensor] = self.loss(logits, labels, batch["native"], batch.get("share"))
        return terms

    def weigh(self, batch: Batch) -> Tensor:
        """See `training.engine.loop.DivisibleObjective`."""
        return self.loss.weigh(batch["labels"], batch["native"])


class SegmentationTask:
    """Data, checkpoints and scores of stage 2; see `training.engine.loop.Task`."""

    def __init__(self, config: SegmentationRun) -> None:
        self._commit = git_commit()  # now: the checkout may change while the run goes on
        self.label_space = synthetic_label_space()
        self.readers = [
            open_reader(data.reader, data.root, data.train_split, data.modality, data.options)
            for data in config.data
        ]
        run = in_steps(config.run, sum(map(len, self.readers)))
        self.config = config = config.model_copy(update={"run": run})
        _check(config)
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
            config.clip.stale,
        )
        sources = [Source(reader, sequences=sequences_of(reader)) for reader in self.readers]
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
            load_weights(model, config.init)
        self.objective: nn.Module = SegmentationObjective(
            model, self.ma_clip, loss, config.run.channels_last
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
            report = evaluate(path, reader, scoring_options(self.config.run), sensor, limit=limit)
            scores[name] = report.miou
        scores["score"] = sum(scores.values()) / len(scores)
        return scores

    def draw(self, path: Path) -> dict[str, Picture]:
        """A sheet per val split: RGB, X, truth, answer."""
        run, sensor = self.config.run, self.config.sensor
        options = scoring_options(run)
        return {
            name: answers(path, reader, run.pictures, sensor, options)
            for name, reader in self._val_readers()
        }

    def _val_readers(self) -> Iterator[tuple[str, Reader]]:
        names: set[str] = set()
        for position, data in enumerate(self.config.data):
            name = f"{data.reader}_{data.modality}"
            name = f"{name}_{position}" if name in names else name
            names.add(name)
            yield (
                name,
                open_reader(data.reader, data.root, data.val_split, data.modality, data.options),
            )

    def _dataset(self, sources: Sequence[Source]) -> JointDataset:
        run = self.config.run
        sizes = [len(source.reader) for source in sources]
        plan = plan_draws(sizes, self.weights, run.steps * run.batch_size, run.seed)
        return JointDataset(sources, plan, self.preparation, run.batch_size)

    def _class_weights(self, sources: Sequence[Source]) -> Tensor | None:
        config, found = self.config.loss, None
        if config.class_weights is not ClassWeights.NONE:
            counts = count_classes(sources, self.weights, self.label_space)
            found = torch.from_numpy(inverse_root_weights(counts, config.max_class_weight))
        return tabled_weights(self.label_space, config.class_weight_table, found)

    def _embedded(self, position: int, reader: Reader) -> Tensor:
        config, data = self.config, self.config.data[position]
        mark = fingerprint(self.ma_clip, reader, self.preparation, config.input)
        if config.clip.embeddings:
            path = embeddings_path(config.clip.embeddings, reader, data.train_split)
            return read_embeddings(path, mark)
        # Kept on disk: a resumed run and other processes must see the very same numbers.
        path = Path(config.run.out) / f"embeddings_{position}{SUFFIX}"
        mark = f"{mark} {json.dumps(to_plain(data), sort_keys=True)}"
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


def _check(config: SegmentationRun) -> None:
    """Refuses options that exclude each other; warns of those that do nothing."""
    require_stretch(config.input)
    if getattr(config.model, "detach_ensemble", False):
        raise ConfigError(
            "model.detach_ensemble: trains two weights and nothing else, as this training has no "
            "loss on the streams; leave it out"
        )
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


@command()
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 2 for a mistake of the user."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("config", help="run file, such as config/train/demo_thermal.yaml")
    parser.add_argument(
        "--set", action="append", default=[], metavar="a.b=VALUE", help="changes one option"
    )
    chosen = parser.parse_args(arguments)
    log_to_terminal()
    train(read_run(chosen.config, chosen.set))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
