"""What a modality adds to a checkpoint, as a file of its own, and checkpoints made of such parts.

A checkpoint with added modalities is its base, tensor by tensor, and one addition after the other:
a set of aligned prompts per stage and a LoRA adapter each. Nothing of the base is written anew, so
answers for its modalities keep every bit.

Legend: S stages, Kp aligned prompts, D token width, R rank, n added modalities.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segrgbx_core.base.config import from_mapping, to_plain
from segrgbx_core.base.errors import CheckpointError, ConfigError, shortened
from segrgbx_core.base.modality import MODALITIES, Modality
from segrgbx_core.labels.label_space import LabelSpace
from segrgbx_core.model.tensor_files import (
    file_hash,
    parse_json_object,
    read_tensors,
    write_tensors,
)
from segrgbx_core.runtime.checkpoint import (
    FORMAT,
    Contract,
    contract_header,
    read_contract,
)
from segrgbx_core.runtime.checkpoint import KEY as CHECKPOINT_KEY
from segrgbx_core.sensors import AddedModality

KEY = "segrgbx_modality"
"""Header of an addition's file."""
PROVENANCE = "added"
"""Entry of a contract's provenance: by modality, where its part comes from and `base`."""
_STREAMS = 1 + len(MODALITIES)
_PROMPTS = re.compile(r"model\.prompts\.\d+\.aligned")
_LORA = re.compile(r"(ma_clip\.tower\..+)\.lora_added_(down|up)\.(\d+)")


@dataclass(frozen=True, eq=False)
class Addition:
    """One added modality.

    Attributes:
        modality: its name.
        definition: its entry in the contract; the slot is that of the file it came from.
        tensors: by the base's names: aligned prompts (1, Kp, D) of each stage as
            `model.prompts.<i>.aligned`, and `<layer>.lora_added_down` (R, in) and `_up` (out, R).
        spaces: plain label space in which its data sets are, with all of them.
        temperature: see `Contract.temperatures`; 1 for none.
        provenance: where it comes from; `base` is the hash of the checkpoint that it was added to.
    """

    modality: Modality
    definition: AddedModality
    tensors: Mapping[str, Tensor]
    spaces: Mapping[str, Any]
    temperature: float = 1.0
    provenance: Mapping[str, Any] | None = None

    @property
    def base(self) -> str:
        """Hash of the checkpoint that it was added to."""
        return str((self.provenance or {}).get("base", ""))


@dataclass(frozen=True, eq=False)
class Parts:
    """A checkpoint taken apart.

    Attributes:
        name: of its file, for messages.
        contract: without what was added.
        tensors: of the base.
        hash: SHA-256 of the base's own file.
        additions: in the order of their slots.
    """

    name: str
    contract: Contract
    tensors: Mapping[str, Tensor]
    hash: str
    additions: tuple[Addition, ...] = ()


def take_apart(path: Path | str) -> Parts:
    """Reads a checkpoint as its base and what was added to it.

    Raises:
        CheckpointError: when it is no checkpoint, or does not say what it was added to.
    """
    contract, (tensors, _) = read_contract(path), read_tensors(path)
    added = contract.encoding.added
    notes = contract.provenance.get(PROVENANCE, {})
    bases = {str(notes.get(name, {}).get("base", "")) for name in added}
    if len(bases) > 1 or bases == {""}:
        raise CheckpointError(f"checkpoint {path}: does not name one base of what was added to it")
    parts: dict[str, dict[str, Tensor]] = {name: {} for name in added}
    base: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if match := _LORA.fullmatch(name):
            owner = list(added)[int(match[3])]
            parts[owner][f"{match[1]}.lora_added_{match[2]}"] = tensor
            continue
        base[name] = tensor[:_STREAMS] if _PROMPTS.fullmatch(name) else tensor
        if _PROMPTS.fullmatch(name):
            for slot, owner in enumerate(added, _STREAMS):
                parts[owner][name] = tensor[slot : slot + 1]
    additions = tuple(
        Addition(
            modality=name,
            definition=definition,
            tensors=parts[name],
            spaces=contract.label_space,
            temperature=contract.temperatures.get(name, 1.0),
            provenance=notes.get(name, {}),
        )
        for name, definition in added.items()
    )
    own_hash = bases.pop() if bases else file_hash(Path(path))
    return Parts(Path(path).name, _without_added(contract), base, own_hash, additions)


def put_together(parts: Parts) -> tuple[dict[str, Tensor], Contract]:
    """Tensors and contract of a checkpoint with everything that was added.

    Raises:
        CheckpointError: when an addition does not fit the base, or two have one name.
        ConfigError: when data sets of one name have different classes.
    """
    tensors, contract = dict(parts.tensors), parts.contract
    spaces, added = LabelSpace.from_dict(contract.label_space), dict[Modality, AddedModality]()
    for position, addition in enumerate(parts.additions):
        if addition.modality in added:
            raise CheckpointError(
                f"modality '{addition.modality}' was added twice, with different weights; "
                "leave one of them out"
            )
        slot = len(MODALITIES) + position
        added[addition.modality] = addition.definition.model_copy(update={"slot": slot})
        spaces = _joined(spaces, LabelSpace.from_dict(dict(addition.spaces)))
        for name, tensor in addition.tensors.items():
            if _PROMPTS.fullmatch(name):
                own = tensors.get(name)
                if own is None or own.shape[1:] != tensor.shape[1:]:
                    raise CheckpointError(f"modality '{addition.modality}': no place for {name}")
                tensors[name] = torch.cat([own, tensor.to(own.dtype)])
            else:
                tensors[f"{name}.{position}"] = tensor
    if not added:
        return tensors, contract
    notes = {one.modality.value: dict(one.provenance or {}) for one in parts.additions}
    temperatures = {one.modality.value: one.temperature for one in parts.additions}
    changes = {
        "format": FORMAT,
        "encoding": contract.encoding.model_copy(update={"added": added}),
        "modalities": (*contract.modalities, *added),
        "label_space": spaces.to_dict(),
        "provenance": {**contract.provenance, PROVENANCE: notes},
        "temperatures": {
            **contract.temperatures,
            **{name: value for name, value in temperatures.items() if value != 1.0},
        },
    }
    return tensors, Contract(**{**dict(contract), **changes})


def write_checkpoint(path: Path | str, parts: Parts) -> Contract:
    """Writes a checkpoint of a base and additions; gives its contract.

    Raises:
        CheckpointError: as `put_together`, or when the file cannot be written.
    """
    tensors, contract = put_together(parts)
    write_tensors(path, tensors, contract_header(contract))
    return contract


def write_addition(path: Path | str, addition: Addition) -> None:
    """Writes what one modality adds, without the base."""
    header = {
        "modality": addition.modality.value,
        "definition": to_plain(addition.definition),
        "label_space": dict(addition.spaces),
        "temperature": addition.temperature,
        "provenance": dict(addition.provenance or {}),
    }
    write_tensors(path, dict(addition.tensors), {KEY: json.dumps(header, sort_keys=True)})


def read_parts(path: Path | str) -> Parts | Addition:
    """A checkpoint, or the file of one addition.

    Raises:
        CheckpointError: when it is neither, or damaged.
    """
    tensors, metadata = read_tensors(path)
    if CHECKPOINT_KEY in metadata or KEY not in metadata:
        return take_apart(path)
    where = f"{path}: its header"
    header = parse_json_object(metadata[KEY], where)
    try:
        return Addition(
            modality=Modality(header["modality"]),
            definition=from_mapping(AddedModality, header["definition"], where),
            tensors=tensors,
            spaces=LabelSpace.from_dict(header["label_space"]).to_dict(),
            temperature=float(header["temperature"]),
            provenance=dict(header["provenance"]),
        )
    except (ConfigError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{where} is damaged ({shortened(str(error))})") from None


def merge(sources: Sequence[Parts | Addition]) -> Parts:
    """What several teams added to one checkpoint, together.

    Args:
        sources: at least one checkpoint, and any number of checkpoints and additions. A modality
            that occurs in several of them with the same weights counts once.

    Raises:
        CheckpointError: when they were added to different checkpoints, or one name stands for
            different modalities.
    """
    wholes = [one for one in sources if isinstance(one, Parts)]
    if not wholes:
        raise CheckpointError("merge: needs a checkpoint; additions alone have no base")
    first, kept = wholes[0], dict[Modality, Addition]()
    for source in sources:
        name, base, brings = _described(source)
        is_other = isinstance(source, Parts) and not _same_base(first, source)
        if base != first.hash or is_other:
            raise CheckpointError(
                f"merge: {name} was added to another checkpoint ({base[:12]}) than {first.name} "
                f"({first.hash[:12]}); merging keeps answers only on one base"
            )
        for addition in brings:
            known = kept.setdefault(addition.modality, addition)
            if not _same(known, addition):
                raise CheckpointError(
                    f"merge: {name} has another '{addition.modality}' than a file before it; "
                    "rename or leave out one of them"
                )
    return replace(first, additions=tuple(kept.values()))


def _described(source: Parts | Addition) -> tuple[str, str, tuple[Addition, ...]]:
    """Name, hash of the base, and what was added to it."""
    if isinstance(source, Parts):
        return source.name, source.hash, source.additions
    return f"addition {source.modality}", source.base, (source,)


def _without_added(contract: Contract) -> Contract:
    added = contract.encoding.added
    if not added:
        return contract
    provenance = {name: v for name, v in contract.provenance.items() if name != PROVENANCE}
    changes = {
        "format": 1,
        "encoding": contract.encoding.model_copy(update={"added": {}}),
        "modalities": tuple(one for one in contract.modalities if one not in added),
        "temperatures": {k: v for k, v in contract.temperatures.items() if k not in added},
        "provenance": provenance,
    }
    return Contract(**{**dict(contract), **changes})


def _same_base(one: Parts, other: Parts) -> bool:
    """Equal weights and promises, data sets' label spaces and provenance aside."""
    names = ("model", "ma_clip", "encoding", "input", "modalities", "temperatures")
    if any(getattr(one.contract, name) != getattr(other.contract, name) for name in names):
        return False
    return one.contract.label_space["names"] == other.contract.label_space["names"] and _equal(
        one.tensors, other.tensors
    )


def _same(one: Addition, other: Addition) -> bool:
    slotless = [a.definition.model_copy(update={"slot": 255}) for a in (one, other)]
    is_same = slotless[0] == slotless[1] and one.temperature == other.temperature
    return is_same and _equal(one.tensors, other.tensors)


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _joined(space: LabelSpace, other: LabelSpace) -> LabelSpace:
    """The data sets of both, over the same unified classes.

    Raises:
        ConfigError: when one data set has different classes in them.
    """
    if space.names != other.names:
        raise ConfigError("label space: an addition has other unified classes than its base")
    natives = {native.name: native for native in space.natives}
    for native in other.natives:
        if natives.setdefault(native.name, native) != native:
            raise ConfigError(f"label space '{native.name}': has different classes in two files")
    return replace(space, natives=tuple(natives.values()))
