"""The paper's ablations as options: the arms of Tables IV, VI, VII and VIII and what it found.

An arm is a run's model with some options of `ModelConfig` set. Everything here that is a number is
the paper's; docs/paper.md says how its words became these options.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from segrgbx_core.base.config import from_mapping, to_plain
from segrgbx_core.base.errors import ConfigError, did_you_mean
from segrgbx_core.bench.cost import PAPER_TABLE_IV
from segrgbx_core.model import AnyModelConfig, ModelConfig
from segrgbx_core.model.prompts import Pairing
from segrgbx_core.model.refinement import Structure


@dataclass(frozen=True)
class Arm:
    """One row of a table.

    Attributes:
        name: for command lines and files.
        title: for people.
        changes: options of `ModelConfig` by dotted name.
        paper_miou: the paper's mean over its five data sets, per cent.
        paper_cost: the paper's parameters in millions and "GFLOPs", where the table has them.
    """

    name: str
    title: str
    changes: Mapping[str, Any]
    paper_miou: float
    paper_cost: tuple[float, float] | None = None


@dataclass(frozen=True)
class Table:
    """One ablation.

    Attributes:
        name: for command lines and files.
        number: of the paper's table.
        title: for people.
        arms: its rows in the paper's order.
        reference: name of the arm that the others are compared with; the paper's model.
        needs: switches of `ModelConfig` without which the arms would be the same network.
    """

    name: str
    number: str
    title: str
    arms: tuple[Arm, ...]
    reference: str
    needs: tuple[str, ...] = ()

    def arm(self, name: str) -> Arm:
        """The arm of that name.

        Raises:
            ConfigError: when there is none.
        """
        known = {arm.name: arm for arm in self.arms}
        if name not in known:
            raise ConfigError(
                f"table {self.name}: arm '{name}' is not one of {', '.join(known)}"
                f"{did_you_mean(name, known)}"
            )
        return known[name]


def arm_model(table: Table, arm: Arm, model: AnyModelConfig) -> ModelConfig:
    """A run's model as an arm has it.

    Raises:
        ConfigError: when the model is a baseline, when it lacks the part that the table varies, or
            when an option of the arm does not exist.
    """
    if not isinstance(model, ModelConfig):
        raise ConfigError(
            f"table {table.name}: model.architecture '{model.architecture}' has none of the parts "
            "that the table varies; use segrgbx"
        )
    off = [name for name in table.needs if not getattr(model, name)]
    if off:
        raise ConfigError(
            f"table {table.name}: model.{off[0]} is false, so that its arms would be the same "
            "network; set it to true"
        )
    plain = to_plain(model)
    for name, value in arm.changes.items():
        *path, last = name.split(".")
        place = plain
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    return from_mapping(ModelConfig, plain, f"table {table.name}, arm {arm.name}")


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


def _structure_arm(structure: Structure) -> Arm:
    plan = structure.plan
    role = "query" if plan.prompt_is_query else "key, value"
    without = "" if plan.universal else "; U replaced by F"
    return Arm(
        name=structure.value,
        title=f"({structure.value}) {plan.first.value}, {plan.second.value}; prompt is {role}"
        f"{without}",
        changes={"refinement.structure": structure.value},
        paper_miou=_STRUCTURE_MIOU[structure],
        paper_cost=PAPER_TABLE_IV[structure],
    )


def _component_arm(name: str, title: str, on: tuple[bool, bool, bool], paper_miou: float) -> Arm:
    switches = ("use_ma_clip", "use_aligned_prompts", "use_dsrm")
    return Arm(name, title, dict(zip(switches, on, strict=True)), paper_miou)


def _pairing_arms(option: str, paper: Mapping[Pairing, float]) -> tuple[Arm, ...]:
    titles = {
        Pairing.ALIGNED: "aligned: RGB serves RGB, X serves X",
        Pairing.CROSS_MODAL: "cross-modal: X serves RGB, RGB serves X",
        Pairing.RGB_DOMINANT: "RGB-dominant: RGB serves both",
    }
    return tuple(
        Arm(pairing.value, titles[pairing], {option: pairing.value}, miou)
        for pairing, miou in paper.items()
    )


_ALL = (
    Table(
        name="structures",
        number="IV",
        title="structure of the DSRM",
        arms=tuple(_structure_arm(structure) for structure in Structure),
        reference=Structure.H.value,
        needs=("use_dsrm",),
    ),
    Table(
        name="components",
        number="VI",
        title="key components",
        arms=(
            _component_arm("none", "all three off", (False, False, False), 62.17),
            _component_arm("without_ma_clip", "without MA-CLIP", (False, True, True), 64.33),
            _component_arm(
                "without_aligned_prompts",
                "without modality-aligned prompts",
                (True, False, True),
                64.43,
            ),
            _component_arm("without_dsrm", "without DSRM", (True, True, False), 64.55),
            _component_arm("full", "full model", (True, True, True), 65.03),
        ),
        reference="full",
    ),
    Table(
        name="prompt_pairing",
        number="VII",
        title="which embedding makes the control prompts",
        arms=_pairing_arms(
            "prompts.pairing",
            {Pairing.ALIGNED: 64.18, Pairing.CROSS_MODAL: 64.12, Pairing.RGB_DOMINANT: 65.03},
        ),
        reference=Pairing.RGB_DOMINANT.value,
        needs=("use_ma_clip",),
    ),
    Table(
        name="refinement_pairing",
        number="VIII",
        title="which embedding prompts the DSRM",
        arms=_pairing_arms(
            "refinement.pairing",
            {Pairing.ALIGNED: 65.03, Pairing.CROSS_MODAL: 64.05, Pairing.RGB_DOMINANT: 64.32},
        ),
        reference=Pairing.ALIGNED.value,
        needs=("use_ma_clip", "use_dsrm"),
    ),
)

TABLES: dict[str, Table] = {table.name: table for table in _ALL}
"""Ablations by name."""
