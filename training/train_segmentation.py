"""Stage 2: trains SegRGB-X beside a frozen MA-CLIP.

python -m training.train_segmentation config/train/demo_thermal.yaml [--set run.steps=100 ...]

The same command again resumes a run that was stopped. One GPU, several (`accelerate launch -m
training.train_segmentation ...`) or a CPU.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from segrgbx_core.checkpoint import Contract, load_checkpoint, save_checkpoint
from segrgbx_core.config import to_plain
from segrgbx_core.errors import CheckpointError, ConfigError, SegrgbxError
from segrgbx_core.labels import synthetic_label_space
from segrgbx_core.model import RgbxNetwork, build_model
from segrgbx_core.model.adapter_files import load_adapters
from segrgbx_core.model.clip_weights import load_clip_weights
from segrgbx_core.model.ma_clip import ModalityAwareClip
from training.augment import Variant
from training.config import SegmentationRun, read_run
from training.datasets import Reader, open_reader
from training.embeddings import (
    WholeFrames,
    embed_frames,
    embeddings_path,
    fingerprint,
    read_embeddings,
)
from training.evaluate import evaluate
from training.joint import (
    JointDataset,
    Preparation,
    Source,
    StepSampler,
    count_classes,
    plan_draws,
    shares,
)
from training.loop import Batch, Loop
from training.losses import ClassWeights, SegmentationLoss, inverse_root_weights, sample_points
from training.run_folder import git_commit, run_folder, without_places

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
        terms: dict[str, Tensor] = self.loss(logits, labels, batch["native"])
        return terms


class SegmentationTask:
    """Data, checkpoints and scores of stage 2; see `training.loop.Task`."""

    def __init__(self, config: SegmentationRun) -> None:
        self.config = config
        self._commit = git_commit()  # now: the checkout may change while the run goes on
        self.label_space = synthetic_label_space()
        self.readers = [
            open_reader(data.reader, data.root, data.train_split, data.modality, data.options)
            for data in config.data
        ]
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
        sources = [Source(reader) for reader in self.readers]
        if config.clip.full_frame and config.model.use_ma_clip:
            sources = [
                replace(source, embeddings=self._embedded(position, source.reader))
                for position, source in enumerate(sources)
            ]
        self.dataset = self._dataset(sources)
        loss = SegmentationLoss(self.label_space, config.loss, self._class_weights(sources))
        torch.manual_seed(config.run.seed)
        model = build_model(config.model, self.label_space.num_classes, self.ma_clip.embed_dim)
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
        return iter(
            DataLoader(
                self.dataset,
                batch_sampler=sampler,
                num_workers=run.workers,
                persistent_workers=run.workers > 0,
                pin_memory=torch.cuda.is_available(),
            )
        )

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
        for position, data in enumerate(self.config.data):
            reader = open_reader(
                data.reader, data.root, data.val_split, data.modality, data.options
            )
            limit = self.config.run.score_samples
            report = evaluate(path, reader, sensors=self.config.sensor, limit=limit)
            name = f"{data.reader}_{data.modality}"
            scores[f"{name}_{position}" if name in scores else name] = report.miou
        scores["score"] = sum(scores.values()) / len(scores)
        return scores

    def _dataset(self, sources: Sequence[Source]) -> JointDataset:
        run = self.config.run
        sizes = [len(source.reader) for source in sources]
        plan = plan_draws(sizes, self.weights, run.steps * run.batch_size, run.seed)
        return JointDataset(sources, plan, self.preparation, run.batch_size)

    def _class_weights(self, sources: Sequence[Source]) -> Tensor | None:
        config = self.config.loss
        if config.class_weights is ClassWeights.NONE:
            return None
        counts = count_classes(sources, self.weights, self.label_space)
        return torch.from_numpy(inverse_root_weights(counts, config.max_class_weight))

    def _embedded(self, position: int, reader: Reader) -> Tensor:
        config = self.config
        if config.clip.embeddings:
            mark = fingerprint(self.ma_clip, reader, self.preparation, config.input)
            split = config.data[position].train_split
            return read_embeddings(embeddings_path(config.clip.embeddings, reader, split), mark)
        # Kept on disk: a resumed run must see the very same numbers.
        path = Path(config.run.out) / f"embeddings_{position}.pt"
        if path.exists():
            kept: Tensor = torch.load(path, weights_only=True)
            if kept.shape[0] == len(reader):
                return kept
        variants, indices = tuple(Variant), range(len(reader))
        frames = WholeFrames(reader, self.preparation, config.input, variants, indices)
        on_gpu = config.run.device != "cpu" and torch.cuda.is_available()
        ma_clip = self.ma_clip.to("cuda" if on_gpu else "cpu")
        embeddings = embed_frames(frames, ma_clip, config.run.workers)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.partial")  # every rank makes its own
        torch.save(embeddings, partial)
        partial.replace(path)
        return embeddings


def build_ma_clip(config: SegmentationRun) -> ModalityAwareClip:
    """The run's frozen MA-CLIP.

    From a checkpoint; from stage 1 (tower and adapters); or random, the same for the same seed.
    Random adapters differ between modalities, so that the path is exercised; they know nothing.

    Raises:
        CheckpointError: when weights or adapters do not fit the tower that `ma_clip` describes.
        ConfigError: when a checkpoint is named together with weights or adapters.
    """
    clip = config.clip
    if clip.checkpoint:
        if clip.weights or clip.adapters:
            raise ConfigError(
                "clip.checkpoint brings tower and adapters; clip.weights and clip.adapters must "
                "be empty beside it"
            )
        loaded = load_checkpoint(clip.checkpoint)
        if loaded.contract.ma_clip != config.ma_clip:
            raise CheckpointError(
                f"checkpoint {clip.checkpoint}: its MA-CLIP is not the one that ma_clip "
                f"describes; copy the tower's options from the checkpoint's run"
            )
        return loaded.ma_clip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.run.seed)
        ma_clip = ModalityAwareClip(config.ma_clip)
        if not (clip.weights or clip.adapters):
            _randomise_adapters(ma_clip)
    if clip.weights:
        load_clip_weights(ma_clip, clip.weights)
    else:
        log.warning("clip: random weights; MA-CLIP's embeddings carry no knowledge")
    if clip.adapters:
        served = load_adapters(clip.adapters, ma_clip)
        lacking = {data.modality for data in config.data} - set(served)
        if lacking:
            names = ", ".join(sorted(map(str, lacking)))
            log.warning("clip.adapters: none for %s; the plain CLIP serves there", names)
    return ma_clip


@torch.no_grad()
def _randomise_adapters(ma_clip: ModalityAwareClip) -> None:
    for name, values in ma_clip.named_parameters():
        if name.endswith("lora_up"):
            values.normal_(std=0.02)


def load_weights(model: RgbxNetwork, path: str) -> None:
    """Starts a model from a checkpoint's weights, strictly.

    Raises:
        CheckpointError: when the checkpoint has another architecture or label space.
    """
    weights = load_checkpoint(path).model.state_dict()
    own = model.state_dict()
    wrong = [name for name in own if name not in weights or weights[name].shape != own[name].shape]
    if wrong or len(weights) != len(own):
        raise CheckpointError(
            f"checkpoint {path}: does not fit the run's model, first at "
            f"'{(wrong or list(weights))[0]}'; copy `model` from the checkpoint's run"
        )
    model.load_state_dict(weights)


def train(config: SegmentationRun) -> Path:
    """Trains to the end of the run; returns the path of the best checkpoint."""
    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    with run_folder(config.run.out, config):
        task = SegmentationTask(config)
        count = sum(values.numel() for values in task.model.parameters())
        log.info(
            "SegRGB-X with %.2f M parameters, %d classes, %d samples, %d steps of %d",
            count / 1e6, task.label_space.num_classes, sum(len(reader) for reader in task.readers),
            config.run.steps, config.run.batch_size,
        )  # fmt: skip
        Loop(task, config.run, config.optimizer, config).train()
    return Path(config.run.out) / "best.safetensors"


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 2 for a mistake of the user."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("config", help="run file, such as config/train/demo_thermal.yaml")
    parser.add_argument(
        "--set", action="append", default=[], metavar="a.b=VALUE", help="changes one option"
    )
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        train(read_run(chosen.config, chosen.set))
    except SegrgbxError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
