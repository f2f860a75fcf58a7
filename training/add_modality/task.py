"""Learns what one modality adds: prompts, LoRA adapter and curve, all else frozen.

Legend: B pairs, H W pixels, Kp aligned prompts, D token width, N knots of the curve.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call

from segrgbx_core.base.config import to_plain
from segrgbx_core.base.errors import CheckpointError, ConfigError
from segrgbx_core.base.modality import Modality
from segrgbx_core.labels.label_space import LabelSpace
from segrgbx_core.labels.overlay import Picture
from segrgbx_core.model.lora import pool_layers
from segrgbx_core.model.segrgbx import SegRGBX
from segrgbx_core.runtime.checkpoint import build_networks, load_checkpoint
from segrgbx_core.sensors import PICTURE, AddedModality, SensorConfig
from training.add_modality.addition import (
    Addition,
    take_apart,
    write_addition,
    write_checkpoint,
)
from training.add_modality.config import AUTO, AddRun
from training.data.datasets import joined_space, samples_text, sensor_of
from training.data.mixing import (
    JointDataset,
    StepSampler,
    TrainingSplit,
    count_classes,
    plan_draws,
    read_steps,
    shares,
)
from training.data.preparation import Preparation
from training.engine.config import in_steps, require_stretch, scoring_options
from training.engine.loop import Batch, Loop
from training.engine.run import git_commit, run_folder, without_places
from training.eval.scoring import EvalOptions, evaluate, prediction_sheet
from training.stage2.losses import ClassWeights, SegmentationLoss, inverse_root_weights
from training.stage2.objective import SegmentationObjective

log = logging.getLogger(__name__)

_TRIED_BATCHES = 4
"""Batches on which ways to start are compared."""
_NEAR = 0.05
"""Share of the range below which the inverse curve stays white."""


class AdditionObjective(nn.Module):
    """The loss of a frozen model as a function of what one modality adds.

    Its parameters are all that is learned; the model stands beside it, in evaluation mode.

    Args:
        inner: the frozen model with its loss.
        modality: which has the last slot of the model.
        knots: rows of the learned curve; 0 for none.
        masks_zero: X of level 0 was not measured and stays black.

    Attributes:
        prompts: aligned prompts (1, Kp, D) by the number of their stage.
        lora: down and up of each layer's adapter; the very tensors of the tower.
        curve: the X image's channels at each knot, (N, 3).
        frozen: prompts of all other modalities, by their names in the model.
    """

    def __init__(
        self, inner: SegmentationObjective, modality: Modality, knots: int, masks_zero: bool
    ) -> None:
        super().__init__()
        inner.eval().requires_grad_(False)
        self._beside = (inner,)
        self._masks_zero = masks_zero
        model = inner.model
        assert isinstance(model, SegRGBX)
        self.prompts = nn.ParameterDict()
        self.frozen: dict[str, Tensor] = {}
        for index, stage in enumerate(model.prompts):
            aligned = stage.aligned
            if isinstance(aligned, nn.Parameter):
                name = f"model.prompts.{index}.aligned"
                self.frozen[name] = aligned.detach()[:-1]
                self.prompts[str(index)] = nn.Parameter(aligned.detach()[-1:].clone())
        self.lora = nn.ParameterList()
        for _, layer in pool_layers(inner.ma_clip.tower):
            for weight in layer.adapter(modality):
                self.lora.append(weight.requires_grad_(True))
        self.curve = nn.Parameter(linear_curve(knots)) if knots else None

    @property
    def inner(self) -> SegmentationObjective:
        """The frozen model with its loss."""
        return self._beside[0]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Loss terms of one batch of `JointDataset` items, X drawn without a curve."""
        rgb, modality = batch["rgb"], batch["modality"]
        x = self.drawn(batch["x"])
        ma_clip = self.inner.ma_clip
        # Not `ma_clip(...)`, which computes no gradients.
        images = torch.cat([ma_clip.prepare(rgb), ma_clip.prepare(x)])
        embeddings = ma_clip.embed(images, torch.cat([modality, modality]))
        rgb_embedding, x_embedding = embeddings.chunk(2)
        given = {"x": x, "rgb_embedding": rgb_embedding, "x_embedding": x_embedding}
        weights = {
            name: torch.cat([frozen, self.prompts[name.split(".")[2]]])
            for name, frozen in self.frozen.items()
        }
        terms: dict[str, Tensor] = functional_call(self.inner, weights, ({**batch, **given},))
        return terms

    def drawn(self, level: Tensor) -> Tensor:
        """X images (B, 3, H, W) by the learned curve; see `sensors.added.from_raw`."""
        if self.curve is None:
            return level
        curve = self.curve.clamp(0, 1)  # (N, 3)
        place = level.clamp(0, 1) * (len(curve) - 1)
        low = place.floor().clamp(max=len(curve) - 2)
        share, index = place - low, low.long()
        columns = curve.T[None, :, :, None].expand(len(level), 3, len(curve), 1)
        flat = index.flatten(2)[..., None]  # (B, 3, H W, 1)
        below = columns.gather(2, flat).view_as(level)
        above = columns.gather(2, flat + 1).view_as(level)
        drawn = below + (above - below) * share
        kept = level > 0 if self._masks_zero else level.flatten(1).amax(1)[:, None, None, None] > 0
        return drawn * kept

    def weigh(self, batch: Batch) -> Tensor:
        """See `training.engine.loop.DivisibleObjective`."""
        return self.inner.weigh(batch)

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        """Moves what is frozen along."""
        for module in (self.inner, self.inner.ma_clip):
            module._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.frozen = {name: fn(tensor) for name, tensor in self.frozen.items()}
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]


class AdditionTask:
    """Data, checkpoints and scores of one added modality; see `training.engine.loop.Task`."""

    def __init__(self, config: AddRun) -> None:
        self._commit = git_commit()
        self.parts = take_apart(config.checkpoint)
        loaded = load_checkpoint(config.checkpoint)
        if not isinstance(loaded.model, SegRGBX) or not loaded.model.needs_embeddings:
            raise CheckpointError(
                f"checkpoint {config.checkpoint}: is no SegRGB-X with MA-CLIP, which prompts and "
                "adapters belong to"
            )
        require_stretch(loaded.contract.input)
        self.readers = [data.open(data.train_split) for data in config.data]
        self.label_space = self._same_classes(loaded.label_space)
        self.samples: Mapping[str, str] = {"checkpoint": loaded.hash} | {
            f"data.{position}": samples_text(reader)
            for position, reader in enumerate(self.readers)
        }
        run = in_steps(config.run, sum(map(len, self.readers)))
        self.config = config = config.model_copy(update={"run": run})
        self.knots = config.knots if config.definition.encoder == PICTURE else 0
        self.dataset = self._dataset(loaded.contract.encoding.added)
        contract = loaded.contract.model_copy(
            update={"encoding": self.dataset.preparation.encoding}
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(run.seed)
            model, ma_clip = build_networks(contract, loaded.label_space.num_classes)
        for grown, old in ((model, loaded.model), (ma_clip, loaded.ma_clip)):
            _fill(grown.state_dict(), old.state_dict())
        loss = SegmentationLoss(self.label_space, config.loss, self._class_weights())
        inner = SegmentationObjective(model, ma_clip, loss, run.channels_last)
        self.learned = AdditionObjective(
            inner, config.name, self.knots, config.definition.zero_is_missing
        )
        self.objective: nn.Module = self.learned
        if not (Path(run.out) / "state.pt").exists():
            self._start(contract.modalities)

    def batches(self, first_step: int, rank: int, world: int) -> Iterator[Batch]:
        """Batches of this rank from a step on."""
        run = self.config.run
        sampler = StepSampler(self.dataset.plan, first_step, run.batch_size, rank, world)
        return read_steps(self.dataset, sampler, run.workers)

    def save(self, path: Path, step: int, scores: Mapping[str, float]) -> None:
        """Writes the whole checkpoint, and beside it what the modality adds."""
        addition = self.addition(step, scores)
        parts = replace(self.parts, additions=(*self.parts.additions, addition))
        write_checkpoint(path, parts)
        write_addition(path.with_name(f"{self.config.name}_{path.stem}.safetensors"), addition)

    def addition(self, step: int, scores: Mapping[str, float]) -> Addition:
        """What has been learned so far."""
        learned, like = self.learned, self.parts.tensors
        tensors = {
            f"model.prompts.{index}.aligned": row.detach().to(
                "cpu", like[f"model.prompts.{index}.aligned"].dtype
            )
            for index, row in learned.prompts.items()
        }
        for name, layer in pool_layers(learned.inner.ma_clip.tower):
            dtype = like[f"ma_clip.tower.{name}.lora_up"].dtype
            for side, weight in zip(("down", "up"), layer.adapter(self.config.name), strict=True):
                key = f"ma_clip.tower.{name}.lora_added_{side}"
                tensors[key] = weight.detach().to("cpu", dtype).clone()
        return Addition(
            modality=self.config.name,
            definition=self._definition(),
            tensors=tensors,
            spaces=self.label_space.to_dict(),
            provenance={
                "base": self.parts.hash,
                "run": without_places(to_plain(self.config)),
                "commit": self._commit,
                "steps": step,
                "scores": dict(scores),
            },
        )

    def score(self, path: Path) -> dict[str, float]:
        """Mean IoU on every val split, and of the classes that the sensor reveals."""
        run, reveals = self.config.run, self.config.definition.reveals
        scores: dict[str, float] = {}
        for position, data in enumerate(self.config.data):
            reader = data.open(data.val_split)
            options = EvalOptions(limit=run.score_samples)
            report = evaluate(path, reader, scoring_options(run), None, options)
            scores[f"{data.reader}_{position}"] = report.miou
            iou = dict(zip(report.names, report.matrix.iou(), strict=True))
            shown = [float(iou[name]) for name in reveals if name in iou]
            if shown:
                scores[f"revealed_{position}"] = sum(shown) / len(shown)
        names = [name for name in scores if name.startswith("revealed_")] or list(scores)
        scores["score"] = sum(scores[name] for name in names) / len(names)
        return scores

    def draw(self, path: Path) -> dict[str, Picture]:
        """A sheet per val split: RGB, X, truth, answer."""
        options, count = scoring_options(self.config.run), self.config.run.pictures
        return {
            f"{data.reader}_{position}": prediction_sheet(
                path, data.open(data.val_split), count, None, options
            )
            for position, data in enumerate(self.config.data)
        }

    def _same_classes(self, known: LabelSpace) -> LabelSpace:
        space = joined_space(self.readers, known)
        if space.names != known.names:
            new = [name for name in space.names if name not in known.names]
            raise ConfigError(
                f"data: class '{new[0]}' is none of the checkpoint's, whose head is frozen; say "
                "in dataset.yaml which unified class it is, or fine-tune the checkpoint first"
            )
        return space

    def _dataset(self, others: Mapping[Modality, AddedModality]) -> JointDataset:
        config, run = self.config, self.config.run
        definition = config.definition
        if self.knots:  # the curve is drawn by the objective, which learns it
            definition = definition.model_copy(update={"curve": AddedModality().curve})
        encoding = self.parts.contract.encoding.model_copy(
            update={"added": {**others, config.name: definition}}
        )
        sensor = sensor_of(self.readers[0], None)
        if any(sensor_of(reader, None) != sensor for reader in self.readers):
            raise ConfigError("data: data sets of one modality must have one sensor section")
        preparation = Preparation(
            self.label_space, encoding, sensor or SensorConfig(), config.augment, run.keep_frames
        )
        sizes = {str(position): len(reader) for position, reader in enumerate(self.readers)}
        stated = {str(position): data.share for position, data in enumerate(config.data)}
        weights = list(shares(sizes, stated, run.sampling).values())
        self.weights = weights
        plan = plan_draws(list(sizes.values()), weights, run.steps * run.batch_size, run.seed)
        sources = [TrainingSplit(reader) for reader in self.readers]
        return JointDataset(sources, plan, preparation, run.batch_size)

    def _class_weights(self) -> Tensor | None:
        if self.config.loss.class_weights is not ClassWeights.INVERSE_ROOT:
            return None
        counts = count_classes(self.dataset.sources, self.weights, self.label_space)
        largest = self.config.loss.max_class_weight
        return torch.from_numpy(inverse_root_weights(counts.pixels, largest))

    @torch.no_grad()
    def _start(self, served: tuple[Modality, ...]) -> None:
        """Takes prompts, adapter and curve from the best of the known modalities."""
        batches = list(itertools.islice(self.batches(0, 0, 1), _TRIED_BATCHES))
        names = served if self.config.start == AUTO else (Modality(self.config.start),)
        curves = start_curves(self.knots) if self.knots else {"": None}
        losses: dict[tuple[Modality, str], float] = {}
        for way in itertools.product(names, curves):
            self._take(way[0], curves[way[1]])
            torch.manual_seed(self.config.run.seed)
            losses[way] = sum(float(self.learned(batch)["loss"]) for batch in batches)
        best = min(losses, key=lambda way: losses[way])
        self._take(best[0], curves[best[1]])
        curve = f" with a curve that is {best[1]}" if best[1] else ""
        log.info(
            "%s starts from %s%s: loss %.3f (worst way %.3f)",
            self.config.name, best[0], curve, losses[best] / len(batches),
            max(losses.values()) / len(batches),
        )  # fmt: skip

    def _take(self, modality: Modality, curve: Tensor | None) -> None:
        learned, place = self.learned, self.learned.inner.ma_clip.modalities.index(modality)
        for index, row in learned.prompts.items():
            row.copy_(learned.frozen[f"model.prompts.{index}.aligned"][1 + place : 2 + place])
        for _, layer in pool_layers(learned.inner.ma_clip.tower):
            pairs = zip(layer.adapter(self.config.name), layer.adapter(modality), strict=True)
            for own, other in pairs:
                own.copy_(other)
        if curve is not None and learned.curve is not None:
            learned.curve.copy_(curve)

    def _definition(self) -> AddedModality:
        definition = self.config.definition
        if self.learned.curve is None:
            return definition
        rows = self.learned.curve.detach().cpu().clamp(0, 1).double().round(decimals=5)
        curve = tuple(tuple(row) for row in rows.tolist())
        return AddedModality(**{**dict(definition), "curve": curve})


def linear_curve(knots: int) -> Tensor:
    """Grey that rises with the value, (N, 3)."""
    return torch.linspace(0, 1, knots)[:, None].repeat(1, 3)


def start_curves(knots: int) -> dict[str, Tensor]:
    """Greys to start from, (N, 3) each, by what they do with the value."""
    rising = linear_curve(knots)
    inverse = (1 / rising.clamp(min=_NEAR) - 1) / (1 / _NEAR - 1)
    return {"rising": rising, "falling": 1 - rising, "inverse": inverse}


@torch.no_grad()
def _fill(grown: Mapping[str, Tensor], old: Mapping[str, Tensor]) -> None:
    """Copies weights into a model that has room for more modalities."""
    for name, values in old.items():
        grown[name][: len(values)].copy_(values) if values.ndim else grown[name].copy_(values)


def add_modality(config: AddRun) -> Path:
    """Learns to the end of the run; returns the path of the best checkpoint."""
    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    with run_folder(config.run.out, config):
        task = AdditionTask(config)
        config = task.config
        count = sum(values.numel() for values in task.objective.parameters())
        log.info(
            "%s adds %d weights to %s; %d samples, %d steps of %d",
            config.name, count, Path(config.checkpoint).name,
            sum(len(reader) for reader in task.readers), config.run.steps, config.run.batch_size,
        )  # fmt: skip
        optimizer = config.optimizer
        if task.knots:
            changes = {"slow_parts": ("curve",), "slow_rate": config.curve_rate}
            optimizer = optimizer.model_copy(update=changes)
        Loop(task, config.run, optimizer, config, rests=True).train()
    return Path(config.run.out) / "best.safetensors"
