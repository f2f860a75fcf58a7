"""The arms of the synthetic benchmark: which models it trains, on what, for how long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from segrgbx_core.base.modality import MODALITIES, Modality
from segrgbx_core.runtime.batch import InputConfig
from training.data.config import DataConfig
from training.data.datasets.synthetic import XSource
from training.experiments.ablation_tables import TABLES, arm_model
from training.stage2.config import SegmentationRun, read_run

RUN_FILE = Path(__file__).resolve().parents[2] / "config" / "train" / "synthetic_benchmark.yaml"
COMPONENTS = TABLES["components"]


@dataclass(frozen=True)
class Scale:
    """How large the benchmark is.

    Attributes:
        train_scenes: scenes to learn from, two frames each.
        test_scenes: scenes to score on, one frame each.
        width: of frames in px.
        height: of frames in px.
        crop: height and width of training views in px.
        steps: of one specialist.
        seeds: training seeds of every arm.
        component_seeds: training seeds of the component arms.
        precision: of accelerate.
    """

    train_scenes: int
    test_scenes: int
    width: int
    height: int
    crop: tuple[int, int]
    steps: int
    seeds: tuple[int, ...]
    component_seeds: tuple[int, ...]
    precision: str = "no"


SCALES = {
    "reduced": Scale(80, 120, 160, 120, (96, 128), 240, (0,), (0,)),
    "full": Scale(400, 300, 320, 240, (192, 256), 600, (0, 1, 2), (0, 1, 2, 3, 4), "bf16"),
}
"""`reduced` takes under half an hour of two processor cores, `full` wants a GPU."""


@dataclass(frozen=True)
class Arm:
    """One model of the benchmark.

    Attributes:
        name: for folders and tables.
        serves: modalities that it is trained for.
        x: what it sees as X.
        share: its steps, in units of a specialist's.
        component: row of the ablation of components, empty for the whole model.
    """

    name: str
    serves: tuple[Modality, ...]
    x: XSource = XSource.OWN
    share: int = 1
    component: str = ""


RGB_ONLY = Arm("rgb_only", (Modality.LIGHT_FIELD,), XSource.NONE)
RGB_TWICE = Arm("rgb_twice", (Modality.LIGHT_FIELD,), XSource.RGB)
"""Trained for light fields: the encoder that takes a colour picture as it is."""
SPECIALISTS = tuple(Arm(f"specialist_{modality}", (modality,)) for modality in MODALITIES)
EQUAL_PER_MODALITY = Arm("generalist", MODALITIES, share=len(MODALITIES))
"""As many steps per modality, and in total, as the five specialists together."""
EQUAL_TOTAL = Arm("generalist_short", MODALITIES)
"""As many steps as one specialist, a fifth of them per modality."""
COMPONENT_ARMS = tuple(
    Arm(f"component_{row.name}", MODALITIES, component=row.name) for row in COMPONENTS.arms
)
ARMS = (
    RGB_ONLY,
    RGB_TWICE,
    *SPECIALISTS,
    EQUAL_PER_MODALITY,
    EQUAL_TOTAL,
    *(arm for arm in COMPONENT_ARMS if arm.component != COMPONENTS.reference),
)
"""What is trained. The reference of the ablation is the short generalist itself."""


def seeds_of(arm: Arm, scale: Scale) -> tuple[int, ...]:
    """Training seeds of an arm; the ablation's reference has those of the ablation."""
    is_component = bool(arm.component) or arm is EQUAL_TOTAL
    return scale.component_seeds if is_component else scale.seeds


def run_of(
    arm: Arm, seed: int, scale: Scale, data: Path, out: Path, overrides: Sequence[str] = ()
) -> SegmentationRun:
    """The run of one arm with one seed.

    Args:
        arm: what is trained.
        seed: source of the run's chance.
        scale: size of the benchmark.
        data: folder with rendered `train` and `test` splits.
        out: folder of all runs.
        overrides: options as `name=value`, above the run file.
    """
    base = read_run(RUN_FILE, overrides)
    sets = tuple(
        DataConfig(
            reader="synthetic_street",
            root=str(data),
            modality=modality,
            val_split="test",
            options={"x": arm.x.value},
        )
        for modality in arm.serves
    )
    run = base.run.model_copy(
        update={
            "out": str(out / f"{arm.name}_{seed}"),
            "seed": seed,
            "steps": scale.steps * arm.share,
            "precision": scale.precision,
        }
    )
    model = base.model
    if arm.component:
        model = arm_model(COMPONENTS, COMPONENTS.arm(arm.component), model)
    crop = {"crop_height": scale.crop[0], "crop_width": scale.crop[1]}
    return base.model_copy(
        update={
            "data": sets,
            "run": run,
            "model": model,
            "input": InputConfig(height=scale.height, width=scale.width),
            "augment": base.augment.model_copy(update=crop),
        }
    )
