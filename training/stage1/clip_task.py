"""The small CLIP that stage 1 starts from: both towers trained by contrast, all weights free."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from accelerate import PartialState
from torch import Tensor, nn
from torch.nn import functional as F

from segrgbx_core.base.config import to_plain
from segrgbx_core.model.clip_weights import load_image_tower
from segrgbx_core.model.ma_clip import ModalityAwareClip, prepare_images
from training.data.augment import Variant
from training.data.datasets import samples_text, spread
from training.data.embeddings import WholeFrames, embed_frames
from training.data.mixing import StepSampler, read_steps
from training.engine.loop import Batch, Loop
from training.engine.run import git_commit, run_folder, without_places
from training.stage1.captions import count_tokens, read_captions
from training.stage1.config import ClipRun
from training.stage1.contrastive import gather, gather_with_gradient, softmax_contrast
from training.stage1.pairs import RgbCaptions, captioned, plan_mixed, require_divisible
from training.stage1.retrieval import collapse, mean_cosine, retrieval_scores
from training.stage1.small_clip import SmallClip, read_small_clip, write_small_clip
from training.stage1.task import preparation_of, warn_without_effect

log = logging.getLogger(__name__)

_FRAMES_AT_ONCE = 64


class ClipObjective(nn.Module):
    """CLIP's loss of RGB images and captions over all processes; equal captions are one.

    Args:
        clip: both towers.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, clip: SmallClip) -> None:
        super().__init__()
        self.clip = clip
        for name in ("mean", "std"):
            values = torch.tensor(getattr(clip.tower_config, name)).view(1, 3, 1, 1)
            self.register_buffer(name, values, persistent=False)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss`, `match` (share of images whose best text is theirs) and `scale`."""
        side = self.clip.tower_config.image_size
        images = self.clip.encode_image(prepare_images(batch["rgb"], side, self.mean, self.std))
        texts = self.clip.encode_text(batch["text"])
        images, texts = (
            gather_with_gradient(F.normalize(part.float(), dim=-1)) for part in (images, texts)
        )
        captions = gather(batch["caption"])  # (B,)
        scale = self.clip.scale()
        with torch.autocast(images.device.type, enabled=False):
            logits = scale * images @ texts.T  # (B, B)
            same = (captions[:, None] == captions[None, :]).float()
            loss = softmax_contrast(logits, same)
        hits = captions[logits.detach().argmax(dim=1)] == captions
        return {"loss": loss, "match": hits.float().mean(), "scale": scale.detach()}


class ClipTask:
    """Data, towers and scores of the small CLIP; see `training.engine.loop.Task`."""

    def __init__(self, config: ClipRun) -> None:
        self.config = config
        self._commit = git_commit()
        captions = read_captions(config.captions)
        train = [
            captioned(data.open(data.train_split), captions, config.captions)
            for data in config.data
        ]
        self.validation = [
            captioned(data.open(data.val_split), captions, config.captions) for data in config.data
        ]
        samples = {
            f"data.{position}": samples_text(split.reader) for position, split in enumerate(train)
        }
        ids = torch.cat([split.captions for split in train]).numpy().tobytes()
        samples["captions"] = hashlib.sha256(ids).hexdigest()[:12]
        self.samples: Mapping[str, str] = samples
        self.preparation = preparation_of(config, [split.reader for split in train])
        self.device = PartialState(cpu=config.run.device == "cpu").device
        texts = {key: text for split in train for key, text in split.texts.items()}
        self.captions = len({key for split in train for key in split.captions.tolist()})
        _warn_of_cut(texts, config.text_tower.context)
        torch.manual_seed(config.run.seed)
        self.clip = SmallClip(config.ma_clip, config.text_tower, config.scale)
        self.objective: nn.Module = ClipObjective(self.clip)
        plan = plan_mixed([split.reader for split in train], config)
        self.dataset = RgbCaptions(train, plan, self.preparation.label_space, config)

    def batches(self, first_step: int, rank: int, world: int) -> Iterator[Batch]:
        """Batches of this rank from a step on."""
        run = self.config.run
        require_divisible(run.batch_size, world)
        sampler = StepSampler(self.dataset.plan, first_step, run.batch_size, rank, world)
        return read_steps(self.dataset, sampler, run.workers)

    def save(self, path: Path, step: int, scores: Mapping[str, float]) -> None:
        """Writes both towers; see `small_clip`."""
        provenance = {
            "run": without_places(to_plain(self.config)),
            "commit": self._commit,
            "step": step,
            "scores": dict(scores),
        }
        write_small_clip(path, self.clip, provenance)

    def score(self, path: Path) -> dict[str, float]:
        """Retrieval of val captions by RGB, with both towers of a file.

        Names are those of stage 1, see `MaClipTask.judge`. `score` is the mean of `rgb_r1` over
        the data sets.
        """
        clip = read_small_clip(path).eval().to(self.device)
        tower = clip.tower_config.model_copy(update={"lora_rank": 0})
        ma_clip = ModalityAwareClip(tower)
        load_image_tower(ma_clip.tower, clip.state_dict(), str(path))
        ma_clip = ma_clip.to(self.device)
        scores: dict[str, float] = {}
        recalls = []
        for number, split in enumerate(self.validation):
            reader = split.reader
            name = f"{reader.native}_{number}" if len(self.validation) > 1 else reader.native
            chosen = spread(len(reader), self.config.run.score_samples)
            frames = WholeFrames(
                reader, self.preparation, self.config.input, (Variant.PLAIN,), chosen
            )
            workers = self.config.run.workers
            rgb = embed_frames(frames, ma_clip, workers, _FRAMES_AT_ONCE)[:, 0, 0]
            ids = split.captions[chosen]
            gallery = torch.tensor(sorted(set(ids.tolist())))
            texts = _embed([split.texts[key] for key in gallery.tolist()], clip, self.device)
            scores |= retrieval_scores(f"{name}_rgb", rgb, ids, texts, gallery)
            scores[f"{name}_text_cosine"] = mean_cosine(texts)
            recalls.append(scores[f"{name}_rgb_r1"])
        return {**scores, **collapse(scores), "score": sum(recalls) / len(recalls)}


@torch.inference_mode()
def _embed(texts: list[str], clip: SmallClip, device: torch.device) -> Tensor:
    rows = [
        clip.encode_text(clip.tokenize(texts[start : start + 256]).to(device)).float().cpu()
        for start in range(0, len(texts), 256)
    ]
    return torch.cat(rows)


def _warn_of_cut(texts: Mapping[int, str], context: int) -> None:
    cut = sum(count_tokens(text) > context for text in texts.values())
    if cut:
        log.warning(
            "captions: %d of %d have more than %d tokens, text_tower.context; the text tower "
            "reads the first ones", cut, len(texts), context,
        )  # fmt: skip


def train_clip(config: ClipRun) -> Path:
    """Trains to the end of the run; returns the file of the best towers."""
    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    out = Path(config.run.out)
    with run_folder(out, config):
        warn_without_effect(config)
        task = ClipTask(config)
        parts = {"image": task.clip.visual, "text": task.clip.text}
        sizes = {
            name: sum(value.numel() for value in part.parameters()) / 1e6
            for name, part in parts.items()
        }
        log.info(
            "CLIP with %.2f M parameters for images and %.2f M for texts, %d images, %d different "
            "captions, %d steps of %d",
            sizes["image"], sizes["text"], sum(len(split.reader) for split in task.dataset.splits),
            task.captions, config.run.steps, config.run.batch_size,
        )  # fmt: skip
        Loop(task, config.run, config.optimizer, config).train()
    return out / "best.safetensors"
