"""What X is worth to a checkpoint, beside another one that sees RGB alone, on the same scenes."""

from __future__ import annotations

from pathlib import Path

from tqdm import tqdm

from segrgbx_core.base.modality import MODALITIES, Modality
from segrgbx_core.base.tables import markdown_table, number
from training.data.datasets.synthetic import XSource
from training.experiments.trials import SceneScores, difference, score_scenes

_TITLES = (
    *("X", "mIoU", "RGB only", "gain", "X of another scene"),
    *("classes", "IoU", "RGB only", "gain"),
)


def x_ablation(checkpoint: Path, rgb_only: Path, data: Path, device: str) -> str:
    """A Markdown table of the gain from X by modality, in per cent.

    Args:
        checkpoint: serves the modalities.
        rgb_only: is given a black X.
        data: folder with the rendered split `test`.
        device: auto or cpu.
    """
    rgb = score_scenes(rgb_only, data, MODALITIES[0], XSource.NONE, device)
    rows = []
    for modality in tqdm(MODALITIES, unit="modality"):
        own, other = (
            score_scenes(checkpoint, data, modality, x, device)
            for x in (XSource.OWN, XSource.OTHER)
        )
        rows.append(_row(modality, own, other, rgb))
    table = markdown_table(_TITLES, rows, "lrrrrlr")
    return f"{len(rgb.scenes)} rendered scenes, per cent:\n\n{table}\n"


def _row(modality: Modality, own: SceneScores, other: SceneScores, rgb: SceneScores) -> list[str]:
    names = modality.facts.reveals
    return [
        str(modality),
        number(own.miou),
        number(rgb.miou),
        str(difference([own], [rgb])),
        number(other.miou),
        ", ".join(names),
        number(own.classes_iou(names)),
        number(rgb.classes_iou(names)),
        str(difference([own], [rgb], names=names)),
    ]
