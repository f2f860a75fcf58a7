"""The map of MA-CLIP's embeddings (the paper's Fig. 5), with and without the LoRA pool.

Legend: N frames, E embedding width.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.manifold import TSNE
from torch import Tensor
from torch.nn import functional as F

from segrgbx_core.base.errors import DataError
from segrgbx_core.model.ma_clip import ModalityAwareClip
from segrgbx_core.runtime.checkpoint import LoadedCheckpoint
from segrgbx_core.sensors import SensorConfig
from training.data.augment import AugmentConfig, Variant
from training.data.datasets import joined_space, spread
from training.data.embeddings import WholeFrames, embed_frames
from training.data.preparation import Preparation
from training.eval.eval_data import EvalSplit
from training.figures.inputs import origin_note
from training.stage1.retrieval import separation

COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195", "#404040")
"""Told apart by most colour-blind people; repeated from the ninth data set on."""
_FEWEST = 5
_MUTED, _FRAME = "#68707c", "#c8cdd4"


@dataclass(frozen=True, eq=False)
class EmbeddingMap:
    """One panel.

    Attributes:
        title: what made the embeddings.
        points: float64 (N, 2) per data set and stream, in the map's own unit.
        scores: `probe` and `silhouette` of the X embeddings in their own space, see
            `retrieval.separation`; empty for one data set.
    """

    title: str
    points: Mapping[tuple[str, str], NDArray[np.float64]]
    scores: Mapping[str, float]


def without_adapters(ma_clip: ModalityAwareClip) -> ModalityAwareClip:
    """The frozen base of MA-CLIP alone; weights are shared, not copied."""
    config = ma_clip.config.model_copy(update={"lora_rank": 0})
    with torch.device("meta"):
        base = ModalityAwareClip(config)
    weights = {name: value for name, value in ma_clip.state_dict().items() if ".lora_" not in name}
    base.load_state_dict(weights, assign=True)
    base.reset_normalisation(next(ma_clip.parameters()).device)
    return base


def map_embeddings(
    loaded: LoadedCheckpoint, splits: Sequence[EvalSplit], limit: int, seed: int
) -> list[EmbeddingMap]:
    """Embeds frames and lays them out in the plane by t-SNE.

    Args:
        loaded: checkpoint, on the device that computes.
        splits: data sets; the checkpoint serves all their modalities.
        limit: frames per data set, evenly spread; 0 for all.
        seed: of t-SNE; the same seed gives the same map.

    Returns:
        the map with adapters, then the one without, each with its own t-SNE.

    Raises:
        CheckpointError: when a modality was not trained.
        DataError: when there are too few frames for a map.
    """
    for split in splits:
        loaded.require(split.modality)
    towers = {
        "with LoRA adapters": loaded.ma_clip,
        "without adapters": without_adapters(loaded.ma_clip),
    }
    if loaded.ma_clip.selection is None:
        towers = {"checkpoint without LoRA adapters": loaded.ma_clip}
    maps = []
    for title, tower in towers.items():
        rows = {split.title: _embed(loaded, tower, split, limit) for split in splits}
        scores = separation({name: pair[:, 1] for name, pair in rows.items()})
        maps.append(EmbeddingMap(title, _lay_out(rows, seed), scores))
    return maps


def draw_map(
    maps: Sequence[EmbeddingMap], splits: Sequence[EvalSplit], loaded: LoadedCheckpoint,
    path: Path | str, seed: int,
) -> str:  # fmt: skip
    """Draws the panels side by side.

    Args:
        maps: from `map_embeddings`.
        splits: the data sets shown.
        loaded: the checkpoint.
        path: picture; its ending chooses the format (png, pdf, svg).
        seed: of t-SNE, for the caption.

    Returns:
        the caption that stands below the panels.
    """
    text = caption(maps, splits, loaded, seed)
    figure = Figure(figsize=(4.6 * len(maps) + 0.6, 5.9), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(maps), squeeze=False)[0], maps, strict=True):
        _draw_panel(axes, panel, [split.title for split in splits])
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    wrapped = textwrap.fill(text, 78 * len(maps))
    figure.supxlabel(wrapped, fontsize=8.5, color=_MUTED, x=0.01, ha="left")
    figure.savefig(path, dpi=160)
    return text


def caption(
    maps: Sequence[EmbeddingMap],
    splits: Sequence[EvalSplit],
    loaded: LoadedCheckpoint,
    seed: int,
) -> str:
    """What the map shows and what it is worth."""
    count = sum(len(points) for points in maps[0].points.values())
    parts = [
        f"t-SNE of MA-CLIP embeddings ({loaded.name}), {count} images from the "
        f"{' and '.join(dict.fromkeys(split.split for split in splits))} split; perplexity "
        f"{_perplexity(count):g}, seed {seed}."
    ]
    parts += [
        f"X {panel.title}: silhouette {panel.scores['silhouette']:.2f}, linear probe "
        f"{panel.scores['probe']:.0%} right."
        for panel in maps
        if panel.scores
    ]
    if maps[0].scores:
        parts.append("Both are measured on the embeddings, by cosine, not on the map.")
    else:
        parts.append("One data set, so nothing to tell apart.")
    parts.append(origin_note(splits, [loaded.contract]))
    return " ".join(part for part in parts if part)


def _embed(
    loaded: LoadedCheckpoint, tower: ModalityAwareClip, split: EvalSplit, limit: int
) -> Tensor:
    """RGB and X embeddings of frames, float32 (N, 2, E)."""
    preparation = Preparation(
        joined_space([split.reader], None),
        loaded.contract.encoding,
        split.sensors or SensorConfig(),
        AugmentConfig(),
    )
    indices = spread(len(split.reader), limit)
    frames = WholeFrames(
        split.reader, preparation, loaded.contract.input, (Variant.PLAIN,), indices
    )
    return embed_frames(frames, tower)[:, 0]


def _lay_out(rows: Mapping[str, Tensor], seed: int) -> dict[tuple[str, str], NDArray[np.float64]]:
    keys = [(name, stream) for name in rows for stream in ("RGB", "X")]
    parts = [
        F.normalize(rows[name][:, ("RGB", "X").index(stream)], dim=-1).numpy()
        for name, stream in keys
    ]
    count = sum(map(len, parts))
    if count < _FEWEST:
        raise DataError(f"embeddings: {count} images are too few for a map; {_FEWEST} are needed")
    tsne = TSNE(perplexity=_perplexity(count), metric="cosine", init="pca", random_state=seed)
    points = tsne.fit_transform(np.concatenate(parts)).astype(np.float64)
    ends = np.cumsum([len(part) for part in parts])[:-1]
    return dict(zip(keys, np.split(points, ends), strict=True))


def _perplexity(count: int) -> float:
    """t-SNE's usual 30, less where there are few images."""
    return min(30.0, max(2.0, (count - 1) // 4))


def _draw_panel(axes: Axes, panel: EmbeddingMap, names: Sequence[str]) -> None:
    for number, name in enumerate(names):
        colour = COLOURS[number % len(COLOURS)]
        for stream, points in ((s, panel.points[name, s]) for s in ("X", "RGB")):
            is_x = stream == "X"
            axes.scatter(
                points[:, 0],
                points[:, 1],
                s=26 if is_x else 34,
                facecolors=colour if is_x else "none",
                edgecolors="white" if is_x else colour,
                linewidths=0.4 if is_x else 1.0,
                label=name if is_x else None,
                zorder=3 if is_x else 2,
            )
    axes.scatter(
        [], [], s=34, facecolors="none", edgecolors=_MUTED, label="RGB of the same frames"
    )
    axes.set_title(panel.title, fontsize=11)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_box_aspect(1)
    axes.spines[:].set_color(_FRAME)
    axes.margins(0.08)
