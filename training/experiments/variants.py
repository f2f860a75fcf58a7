"""The models that experiments compare: rows of the paper's ablations and of the benchmark.

A variant is a run with some options of `ModelConfig` set, or with other data. Numbers in the
ablation tables are the paper's; docs/paper.md says how its words became these options.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from segrgbx_core.base.config import from_mapping, to_plain
from segrgbx_core.base.errors import ConfigError, did_you_mean
from segrgbx_core.base.modality import MODALITIES, Modality
from segrgbx_core.bench.cost import PAPER_TABLE_IV
from segrgbx_core.model import AnyModelConfig, ModelConfig
from segrgbx_core.model.prompts import Pairing
from segrgbx_core.model.refinement import Structure
from segrgbx_core.runtime.batch import InputConfig
from training.data.config import DataConfig
from training.data.datasets.synthetic import XSource
from training.stage2.config import SegmentationRun, read_run

BENCHMARK_RUN = (
    Path(__file__).resolve().parents[2] / "config" / "train" / "synthetic_benchmark.yaml"
)
COST_SIZE = (512, 512)
"""Height and width at which costs are counted, the paper's."""


@dataclass(frozen=True)
class Variant:
    """One model of an experiment.

    Attributes:
        name: for command lines and files.
        title: for people.
        changes: options of `ModelConfig` by dotted name.
        modalities: what it is trained for; none: what the run file says.
        x: what it sees as X.
        share: its steps, in units of the experiment's usual number.
        paper_miou: the paper's mean over its five data sets, per cent; NaN for none.
        paper_cost: the paper's parameters in millions and "GFLOPs", where the table has them.
    """

    name: str
    title: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)
    modalities: tuple[Modality, ...] = ()
    x: XSource = XSource.OWN
    share: int = 1
    paper_miou: float = float("nan")
    paper_cost: tuple[float, float] | None = None


@dataclass(frozen=True)
class AblationTable:
    """One of the paper's ablations.

    Attributes:
        name: for command lines and files.
        number: of the paper's table; empty for arms that the paper does not have.
        title: for people.
        variants: its rows in the paper's order.
        reference: name of the row that the others are compared with; the paper's model.
        needs: switches of `ModelConfig` without which the rows would be the same network.
    """

    name: str
    number: str
    title: str
    variants: tuple[Variant, ...]
    reference: str
    needs: tuple[str, ...] = ()

    @property
    def full_title(self) -> str:
        """Title, and the number of the paper's table where it has one."""
        return f"{self.title} (the paper's Table {self.number})" if self.number else self.title

    def variant(self, name: str) -> Variant:
        """The row of that name.

        Raises:
            ConfigError: when there is none.
        """
        known = {variant.name: variant for variant in self.variants}
        if name not in known:
            raise ConfigError(
                f"table {self.name}: arm '{name}' is not one of {', '.join(known)}"
                f"{did_you_mean(name, known)}"
            )
        return known[name]

    def select(self, names: Sequence[str]) -> list[Variant]:
        """The rows of these names, or all for none; see `variant` for errors."""
        return [self.variant(name) for name in names] or list(self.variants)

    def model(self, variant: Variant, model: AnyModelConfig) -> ModelConfig:
        """A run's model as a row has it.

        Raises:
            ConfigError: when the model is a baseline, when it lacks the part that the table
                varies, or when an option of the row does not exist.
        """
        if not isinstance(model, ModelConfig):
            raise ConfigError(
                f"table {self.name}: model.architecture '{model.architecture}' has none of the "
                "parts that the table varies; use segrgbx"
            )
        off = [name for name in self.needs if not getattr(model, name)]
        if off:
            raise ConfigError(
                f"table {self.name}: model.{off[0]} is false, so that its arms would be the same "
                "network; set it to true"
            )
        plain = to_plain(model)
        for name, value in variant.changes.items():
            *path, last = name.split(".")
            section = plain
            for part in path:
                section = section.setdefault(part, {})
            section[last] = value
        return from_mapping(ModelConfig, plain, f"table {self.name}, arm {variant.name}")


_STRUCTURE_MIOU = {
    Structure.A: 64.68,
    Structure.B: 64.83,
    Structure.C: 64.68,
    Structure.D: 64.79,
    Structure.E: 62.90,
    Structure.F: 64.74,
    Structure.G: 64.59,
    Structure.H: 65.03,
    Structure.I: 47.58,
}


def _structure_variant(structure: Structure) -> Variant:
    plan = structure.plan
    role = "query" if plan.prompt_is_query else "key, value"
    without = "" if plan.universal else "; U replaced by F"
    return Variant(
        name=structure.value,
        title=f"({structure.value}) {plan.first.value}, {plan.second.value}; prompt is {role}"
        f"{without}",
        changes={"refinement.structure": structure.value},
        paper_miou=_STRUCTURE_MIOU[structure],
        paper_cost=PAPER_TABLE_IV[structure],
    )


def _component_variant(
    name: str, title: str, on: tuple[bool, bool, bool], paper_miou: float
) -> Variant:
    switches = ("use_ma_clip", "use_aligned_prompts", "use_dsrm")
    changes = dict(zip(switches, on, strict=True))
    return Variant(name, title, changes, paper_miou=paper_miou)


def _pairing_variants(option: str, paper: Mapping[Pairing, float]) -> tuple[Variant, ...]:
    titles = {
        Pairing.ALIGNED: "aligned: RGB serves RGB, X serves X",
        Pairing.CROSS_MODAL: "cross-modal: X serves RGB, RGB serves X",
        Pairing.RGB_DOMINANT: "RGB-dominant: RGB serves both",
    }
    return tuple(
        Variant(pairing.value, titles[pairing], {option: pairing.value}, paper_miou=miou)
        for pairing, miou in paper.items()
    )


_ALL = (
    AblationTable(
        name="structures",
        number="IV",
        title="structure of the DSRM",
        variants=tuple(_structure_variant(structure) for structure in Structure),
        reference=Structure.H.value,
        needs=("use_dsrm",),
    ),
    AblationTable(
        name="components",
        number="VI",
        title="key components",
        variants=(
            _component_variant("none", "all three off", (False, False, False), 62.17),
            _component_variant("without_ma_clip", "without MA-CLIP", (False, True, True), 64.33),
            _component_variant(
                "without_aligned_prompts",
                "without modality-aligned prompts",
                (True, False, True),
                64.43,
            ),
            _component_variant("without_dsrm", "without DSRM", (True, True, False), 64.55),
            _component_variant("full", "full model", (True, True, True), 65.03),
        ),
        reference="full",
    ),
    AblationTable(
        name="prompt_pairing",
        number="VII",
        title="which embedding makes the control prompts",
        variants=_pairing_variants(
            "prompts.pairing",
            {Pairing.ALIGNED: 64.18, Pairing.CROSS_MODAL: 64.12, Pairing.RGB_DOMINANT: 65.03},
        ),
        reference=Pairing.RGB_DOMINANT.value,
        needs=("use_ma_clip",),
    ),
    AblationTable(
        name="refinement_pairing",
        number="VIII",
        title="which embedding prompts the DSRM",
        variants=_pairing_variants(
            "refinement.pairing",
            {Pairing.ALIGNED: 65.03, Pairing.CROSS_MODAL: 64.05, Pairing.RGB_DOMINANT: 64.32},
        ),
        reference=Pairing.ALIGNED.value,
        needs=("use_ma_clip", "use_dsrm"),
    ),
    AblationTable(
        name="refinement",
        number="",
        title="what the DSRM's indicator chooses, and how its change starts",
        variants=(
            Variant("literal", "chi chooses universal prompts"),
            Variant(
                "layer_scale",
                "the same, its change scaled from 0.01 on",
                {"refinement.layer_scale": 0.01},
            ),
            Variant("mixture", "chi chooses hidden units too", {"refinement.kind": "mixture"}),
            Variant("without", "no DSRM", {"use_dsrm": False}),
        ),
        reference="literal",
        needs=("use_dsrm",),
    ),
)

TABLES: dict[str, AblationTable] = {table.name: table for table in _ALL}
"""Ablations by name."""


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
        seeds: training seeds of every variant.
        component_seeds: training seeds of the ablation of components.
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
"""`reduced` takes under half an hour of two processor cores, `full` needs a GPU."""


COMPONENTS = TABLES["components"]
RGB_ONLY = Variant("rgb_only", modalities=(Modality.LIGHT_FIELD,), x=XSource.NONE)
RGB_TWICE = Variant("rgb_twice", modalities=(Modality.LIGHT_FIELD,), x=XSource.RGB)
"""Trained for light fields: the encoder that takes a colour picture as it is."""
SPECIALISTS = tuple(
    Variant(f"specialist_{modality}", modalities=(modality,)) for modality in MODALITIES
)
EQUAL_PER_MODALITY = Variant("generalist", modalities=MODALITIES, share=len(MODALITIES))
"""As many steps per modality, and in total, as the five specialists together."""
EQUAL_TOTAL = Variant("generalist_short", modalities=MODALITIES)
"""As many steps as one specialist, a fifth of them per modality. The ablation's reference."""
COMPONENT_VARIANTS = tuple(
    replace(row, name=f"component_{row.name}", modalities=MODALITIES)
    for row in COMPONENTS.variants
    if row.name != COMPONENTS.reference
)
BENCHMARK = (
    RGB_ONLY,
    RGB_TWICE,
    *SPECIALISTS,
    EQUAL_PER_MODALITY,
    EQUAL_TOTAL,
    *COMPONENT_VARIANTS,
)
"""What the benchmark trains."""


def seeds_of(variant: Variant, scale: Scale) -> tuple[int, ...]:
    """Training seeds of a variant; the ablation's reference has those of the ablation."""
    is_component = bool(variant.changes) or variant is EQUAL_TOTAL
    return scale.component_seeds if is_component else scale.seeds


def benchmark_run(
    variant: Variant,
    seed: int,
    scale: Scale,
    data: Path,
    out: Path,
    overrides: Sequence[str] = (),
) -> SegmentationRun:
    """The run of one variant with one seed.

    Args:
        variant: what is trained.
        seed: random seed of the run.
        scale: size of the benchmark.
        data: folder with rendered `train` and `test` splits.
        out: folder of all runs.
        overrides: options as `name=value`, above the run file.
    """
    base = read_run(BENCHMARK_RUN, overrides)
    run = base.run.model_copy(
        update={
            "out": str(out / f"{variant.name}_{seed}"),
            "seed": seed,
            "steps": scale.steps * variant.share,
            "precision": scale.precision,
        }
    )
    crop = {"crop_height": scale.crop[0], "crop_width": scale.crop[1]}
    model = base.model
    return base.model_copy(
        update={
            "data": rendered_data(variant, dict.fromkeys(variant.modalities, data), "test"),
            "run": run,
            "model": COMPONENTS.model(variant, model) if variant.changes else model,
            "input": InputConfig(height=scale.height, width=scale.width),
            "augment": base.augment.model_copy(update=crop),
        }
    )


def benchmark_runs(
    scale: Scale, data: Path, out: Path, overrides: Sequence[str] = ()
) -> dict[str, SegmentationRun]:
    """Every training of the benchmark, the longest first so that processes end together."""
    variants = sorted(BENCHMARK, key=lambda variant: -variant.share)
    return {
        f"{variant.name}_{seed}": benchmark_run(variant, seed, scale, data, out, overrides)
        for variant in variants
        for seed in seeds_of(variant, scale)
    }


def rendered_data(
    variant: Variant, roots: Mapping[Modality, Path], val_split: str
) -> tuple[DataConfig, ...]:
    """The rendered data sets that a variant learns from.

    Args:
        variant: decides what is seen as X.
        roots: folder of the data set of each modality.
        val_split: name of the second split.
    """
    return tuple(
        DataConfig(
            reader="synthetic_street",
            root=str(root),
            modality=modality,
            val_split=val_split,
            options={"x": variant.x.value},
        )
        for modality, root in roots.items()
    )
