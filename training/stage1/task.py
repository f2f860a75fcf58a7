"""Stage 1: the LoRA pool of MA-CLIP trained by contrast with captions (paper, III-B)."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor, nn

from segrgbx_core.base.config import to_plain
from segrgbx_core.base.modality import MODALITIES, Modality
from segrgbx_core.model.adapter_files import load_adapters, save_adapter
from segrgbx_core.model.ma_clip import ModalityAwareClip
from training.data.augment import AugmentConfig, Variant
from training.data.config import require_paper_modalities
from training.data.datasets import Reader, joined_space, samples_text, spread
from training.data.embeddings import (
    WholeFrames,
    embed_frames,
    embeddings_path,
    fingerprint,
    write_embeddings,
)
from training.data.mixing import StepSampler, read_steps
from training.data.preparation import Preparation
from training.engine.loop import Batch, Loop
from training.engine.run import git_commit, run_folder, without_places
from training.stage1.captions import read_captions
from training.stage1.config import MaClipRun, PairRun
from training.stage1.contrastive import ContrastiveLoss
from training.stage1.lora import TrainingPool
from training.stage1.pairs import (
    CaptionedSplit,
    PairDataset,
    captioned,
    modalities_of,
    plan_pairs,
    require_divisible,
)
from training.stage1.retrieval import collapse, retrieval_scores, separation
from training.stage1.text_tower import frozen_parts

log = logging.getLogger(__name__)

BEST = "best"
EMBEDDINGS = "embeddings"
_FRAMES_AT_ONCE = 16


class ContrastiveObjective(nn.Module):
    """The learning pool with its loss; its state is the adapters, not the frozen tower.

    Args:
        pool: adapters on the frozen tower.
        loss: Eq. 1.

    Attributes:
        best: float32 (modalities,), best score of each modality so far, part of the state.
    """

    best: Tensor

    def __init__(self, pool: TrainingPool, loss: ContrastiveLoss) -> None:
        super().__init__()
        self.pool, self.loss = pool, loss
        self.register_buffer("best", torch.full((len(MODALITIES),), -1.0))
        self._learn_all()
        self.register_state_dict_post_hook(_drop_frozen)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_post_hook(_expect_no_frozen)  # type: ignore[no-untyped-call]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Loss terms of one batch of `PairDataset` items, of one modality or several."""
        modality = batch["modality"]
        images = torch.stack([batch["rgb"], batch["x"]], dim=1)  # (B, 2, 3, S, S)
        order, parts = [], []
        for index in sorted(set(modality.tolist())):
            rows = (modality == index).nonzero().squeeze(1)
            order.append(rows)
            parts.append(self.pool(images[rows].flatten(0, 1), MODALITIES[index]))
            self._learn_all()
        embeddings = torch.cat(parts)
        pairs = embeddings.reshape(
            -1, 2, embeddings.shape[-1]
        )  # (B, 2, E), modality after modality
        rgb_embedding, x_embedding = pairs[torch.cat(order).argsort()].unbind(dim=1)
        terms: dict[str, Tensor] = self.loss(
            rgb_embedding, x_embedding, batch["text"], batch["caption"]
        )
        return terms

    def _learn_all(self) -> None:
        # peft lets only the adapter in use learn; the optimizer needs all of them, and a
        # mixed batch reaches several. An adapter without pairs gets no gradient and stays put.
        for parameter in self.pool.adapter_parameters():
            parameter.requires_grad_(True)


def _drop_frozen(
    module: nn.Module, state: dict[str, Any], prefix: str, _metadata: dict[str, Any]
) -> None:
    trained = {name for name, value in module.named_parameters() if value.requires_grad}
    for name in [name for name in state if name.startswith(f"{prefix}pool.")]:
        if name.removeprefix(prefix) not in trained:
            del state[name]


def _expect_no_frozen(_module: nn.Module, keys: Any) -> None:
    keys.missing_keys[:] = [name for name in keys.missing_keys if ".lora_" in name]


@dataclass(frozen=True, eq=False)
class ValidationSplit:
    """A validation split with what scoring needs, read once.

    Attributes:
        name: `<data set>_<modality>`, numbered where a run has it twice.
        modality: its X.
        frames: the frames that are scored.
        captions: their caption ids.
    """

    name: str
    modality: Modality
    frames: WholeFrames
    captions: Tensor


class MaClipTask:
    """Data, adapters and scores of stage 1; see `training.engine.loop.Task`."""

    def __init__(self, config: MaClipRun) -> None:
        require_paper_modalities(config.data, config.encoding)
        self.config = config
        self._commit = git_commit()  # now: the checkout may change while the run goes on
        captions = read_captions(config.captions)
        train, val = (
            [captioned(data.open(split), captions, config.captions) for data, split in group]
            for group in (
                [(data, data.train_split) for data in config.data],
                [(data, data.val_split) for data in config.data],
            )
        )
        samples = {
            f"data.{position}": samples_text(split.reader) for position, split in enumerate(train)
        }
        ids = torch.cat([split.captions for split in train]).numpy().tobytes()
        samples["captions"] = hashlib.sha256(ids).hexdigest()[:12]
        self.samples: Mapping[str, str] = samples
        self.preparation = preparation_of(config, [split.reader for split in train])
        self.modalities = modalities_of([split.reader for split in train])
        state = PartialState(cpu=config.run.device == "cpu")
        self.device: torch.device = state.device
        texts = {key: text for split in (*train, *val) for key, text in split.texts.items()}
        with state.main_process_first():
            self.table, self.ma_clip = frozen_parts(config, texts, self.device)
        if config.adapters:
            load_adapters(config.adapters, self.ma_clip)
        pool = TrainingPool(self.ma_clip, self.modalities, config.lora_dropout)
        pool.set_grad_checkpointing(config.grad_checkpointing)
        self.pool = pool
        loss = ContrastiveLoss(config.loss, self.table.scale, self.table.bias)
        self.objective: nn.Module = ContrastiveObjective(pool, loss)
        self.captions = len({key for split in (*train, *val) for key in split.captions.tolist()})
        plan = plan_pairs([split.reader for split in train], config)
        self.dataset = PairDataset(train, self.table.by_caption(), plan, self.preparation, config)
        names = [f"{split.reader.native}_{split.reader.modality}" for split in val]
        self.validation = [
            self._validation_split(split, name if names.count(name) == 1 else f"{name}_{position}")
            for position, (split, name) in enumerate(zip(val, names, strict=True))
        ]

    def batches(self, first_step: int, rank: int, world: int) -> Iterator[Batch]:
        """Batches of this rank from a step on."""
        run = self.config.run
        require_divisible(run.batch_size, world)
        sampler = StepSampler(self.dataset.plan, first_step, run.batch_size, rank, world)
        return read_steps(self.dataset, sampler, run.workers)

    def save(self, path: Path, step: int, scores: Mapping[str, float]) -> None:
        """Writes adapters into the folder `path` without its suffix.

        Into `best` go the adapters of those modalities that are at their best in this step.
        """
        folder = path.with_suffix("")
        self.pool.write_to(self.ma_clip)
        for modality in self.modalities:
            own = own_score(scores, modality)
            if folder.name == BEST and own < float(self._best()[modality.index]):
                continue
            metadata = {
                "run": without_places(to_plain(self.config)),
                "commit": self._commit,
                "step": step,
                "scores": dict(scores),
            }
            save_adapter(folder / f"{modality}{path.suffix}", self.ma_clip, modality, metadata)

    def score(self, path: Path) -> dict[str, float]:
        """Retrieval and separation on the val splits, by the adapters of a folder.

        `score` is the mean over modalities of each one's best `<modality>_r1` so far, so that it
        rises whenever one of them gets better: adapters are independent, each keeps its own best.
        """
        load_adapters(path.with_suffix(""), self.ma_clip)
        scores = self.judge()
        best = self._best()
        for modality in self.modalities:
            own = torch.tensor(own_score(scores, modality), device=best.device)
            best[modality.index] = torch.maximum(best[modality.index], own)
        rows = best[[modality.index for modality in self.modalities]]
        return {**scores, "score": float(rows.double().mean())}

    def judge(self) -> dict[str, float]:
        """Retrieval and separation on the val splits as MA-CLIP is now.

        `<set>_<modality>_x_r1` is the share of X images whose own caption is the nearest of the
        split's different captions, `rgb_r1` the same for RGB, `r5` among the nearest five, beside
        them `x_chance_r1` and so on, what guessing finds; `x_cosine` the mean cosine between the
        split's embeddings, and `collapsed` the number of those above `retrieval.COLLAPSED`;
        `<modality>_r1` the mean of `x_r1` over the modality's data sets. Separation is that of X
        embeddings by modality, or of RGB from X where there is one modality.
        """
        ma_clip = self.ma_clip.to(self.device)
        scores: dict[str, float] = {}
        groups: dict[str, list[Tensor]] = {}
        for split in self.validation:
            workers = self.config.run.workers
            pairs = embed_frames(split.frames, ma_clip, workers, _FRAMES_AT_ONCE)[:, 0]
            gallery = torch.tensor(sorted(set(split.captions.tolist())))
            texts = self.table.embeddings[self.table.rows(gallery)]
            for stream, embeddings in zip(("rgb", "x"), pairs.unbind(dim=1), strict=True):
                name = f"{split.name}_{stream}"
                scores |= retrieval_scores(name, embeddings, split.captions, texts, gallery)
                groups.setdefault(stream, []).append(embeddings)
        for modality in self.modalities:
            names = [one.name for one in self.validation if one.modality is modality]
            scores[f"{modality}_r1"] = sum(scores[f"{name}_x_r1"] for name in names) / len(names)
        return {**scores, **collapse(scores), **separation(self._separated(groups))}

    def _separated(self, groups: Mapping[str, list[Tensor]]) -> dict[str, Tensor]:
        if len(self.modalities) == 1:
            return {stream: torch.cat(parts) for stream, parts in groups.items()}
        owners = [split.modality for split in self.validation]
        return {
            modality.value: torch.cat(
                [
                    part
                    for part, owner in zip(groups["x"], owners, strict=True)
                    if owner is modality
                ]
            )
            for modality in self.modalities
        }

    def _best(self) -> Tensor:
        best: Tensor = self.objective.get_buffer("best")
        return best

    def _validation_split(self, split: CaptionedSplit, name: str) -> ValidationSplit:
        rows = spread(len(split.reader), self.config.run.score_samples)
        frames = WholeFrames(
            split.reader, self.preparation, self.config.input, (Variant.PLAIN,), rows
        )
        return ValidationSplit(name, split.reader.modality, frames, split.captions[rows])


def own_score(scores: Mapping[str, float], modality: Modality) -> float:
    """What a modality's adapter is judged by; 0 where nothing was scored."""
    return scores.get(f"{modality}_r1", 0.0)


def preparation_of(config: PairRun, readers: Sequence[Reader]) -> Preparation:
    """How the run's pairs are made from samples."""
    return Preparation(
        joined_space(readers, None),
        config.encoding,
        config.sensor,
        AugmentConfig(),
        config.run.keep_frames,
    )


def precompute(config: MaClipRun, ma_clip: ModalityAwareClip) -> list[Path]:
    """Embeds both splits of every data set in all variants, for stage 2's `clip.embeddings`."""
    paths = []
    for data in config.data:
        for split in dict.fromkeys((data.train_split, data.val_split)):
            reader = data.open(split)
            preparation = preparation_of(config, [reader])
            path = embeddings_path(Path(config.run.out) / EMBEDDINGS, reader, split)
            variants, indices = tuple(Variant), range(len(reader))
            frames = WholeFrames(reader, preparation, config.input, variants, indices)
            embeddings = embed_frames(frames, ma_clip, config.run.workers, 4)
            mark = fingerprint(ma_clip, reader, preparation, config.input)
            write_embeddings(path, embeddings, mark)
            log.info("%s: %d frames", path, len(embeddings))
            paths.append(path)
    return paths


def train(config: MaClipRun, precomputes: bool = False) -> Path:
    """Trains to the end of the run; returns the folder of the best adapters."""
    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    out = Path(config.run.out)
    with run_folder(out, config):
        _warn(config)
        task = MaClipTask(config)
        count = sum(value.numel() for value in task.pool.adapter_parameters())
        log.info(
            "MA-CLIP with %.2f M parameters in %d adapters (%s), %d pairs, %d captions, %d steps "
            "of %d",
            count / 1e6, len(task.modalities), ", ".join(map(str, task.modalities)),
            sum(len(split.reader) for split in task.dataset.splits), task.captions,
            config.run.steps, config.run.batch_size,
        )  # fmt: skip
        state = PartialState()
        if state.is_main_process and not (out / "state.pt").exists():
            recalls = "  ".join(f"{name} {value:.4f}" for name, value in task.judge().items())
            log.info("before training: %s", recalls)
        Loop(task, config.run, config.optimizer, config, rests=True).train()
        if precomputes and state.is_main_process:
            load_adapters(out / BEST, task.ma_clip)
            precompute(config, task.ma_clip.to(task.device))
    return out / BEST


def _warn(config: MaClipRun) -> None:
    if not (config.text.weights or config.text.pretrained):
        log.warning("text: random weights; captions and adapters carry no knowledge")
    warn_without_effect(config)


def warn_without_effect(config: PairRun) -> None:
    """Names options of the run that neither stage 1 nor its small CLIP uses."""
    for name in ("half_checkpoints", "channels_last"):
        if getattr(config.run, name):
            log.warning("run.%s has no effect on stage 1", name)
