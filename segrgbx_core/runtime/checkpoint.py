"""Checkpoints: one file with the weights of SegRGB-X and MA-CLIP and the contract they keep.

The contract holds all that inference needs beside the weights: both architectures, how X
images are encoded, the input size, the label space with its hash, what was trained. It lies as
JSON in the safetensors header under the key "segrgbx"; node, replay, export and bench read it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import field_validator, model_validator
from torch import nn

from segrgbx_core.base.config import Config, from_mapping, option, to_plain
from segrgbx_core.base.errors import CheckpointError, ConfigError, did_you_mean, shortened
from segrgbx_core.base.modality import MODALITIES, Modality
from segrgbx_core.labels.label_space import VOID, LabelSpace, unified_label_space
from segrgbx_core.model import (
    ALL_PRESETS,
    BASELINE_PRESETS,
    AnyModelConfig,
    RgbxNetwork,
    build_model,
)
from segrgbx_core.model.ma_clip import CLIP_PRESETS, MaClipConfig, ModalityAwareClip
from segrgbx_core.model.tensor_files import (
    TensorFile,
    check_numbers,
    check_shapes,
    parse_json_object,
    read_metadata,
    write_tensors,
)
from segrgbx_core.runtime.batch import InputConfig
from segrgbx_core.sensors import EncodingConfig, slot_of

FORMAT = 2
"""Newest format that this package reads; 2 added modalities beyond the paper's five. Contracts
without any are written as format 1, which earlier versions read."""
KEY = "segrgbx"
_PARTS = ("model", "ma_clip")
_LONGEST = 400
"""Characters of an error about a contract, whose values may be of any length."""


class Contract(Config):
    """What a checkpoint promises to whoever uses it."""

    format: int = option(1, doc="format of the checkpoint", low=1)
    model: AnyModelConfig = option(doc="architecture of SegRGB-X or of a baseline")
    ma_clip: MaClipConfig = option(doc="architecture of MA-CLIP")
    encoding: EncodingConfig = option(
        EncodingConfig(), doc="how physical values become the X image"
    )
    input: InputConfig = option(InputConfig(), doc="size in which the model sees images")
    label_space: dict[str, Any] = option(doc="unified and native classes, with their hash")
    modalities: tuple[Modality, ...] = option(MODALITIES, doc="X sensors it was trained for")
    native_spaces: tuple[str, ...] = option((), doc="data sets' label spaces it was trained on")
    temperatures: dict[str, float] = option(
        {},
        doc="by X sensor, what logits are divided by before the softmax, so that confidences are "
        "probabilities; 1 where none is stated",
    )
    fusion: dict[str, dict[str, float]] = option(
        {},
        doc="by the names of several X sensors, in order, joined by +: weights of the logits of "
        "each, and of RGB alone, in their fused answer",
    )
    provenance: dict[str, Any] = option(
        {}, doc="run, commit, scores; random_weights where untrained"
    )

    @field_validator("label_space")
    @classmethod
    def _consistent(cls, value: dict[str, Any]) -> dict[str, Any]:
        names = value.get("names", ())
        if not isinstance(names, list | tuple) or len(names) > VOID:
            raise ValueError(f"names must be a list of at most {VOID}")
        LabelSpace.from_dict(value)
        return value

    @field_validator("temperatures")
    @classmethod
    def _usable(cls, value: dict[str, float]) -> dict[str, float]:
        for name, temperature in value.items():
            if not temperature > 0:
                raise ValueError(f"{temperature:g} of {name} is not above 0")
        return value

    @field_validator("fusion")
    @classmethod
    def _fits_its_sensors(cls, value: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
        for key, weights in value.items():
            names = key.split("+")
            if names != sorted(set(names)) or set(weights) - {"rgb"} != set(names):
                raise ValueError(
                    f"'{shortened(key)}' must name sensors in order, with a weight for each"
                )
        return value

    @field_validator("modalities")
    @classmethod
    def _each_once(cls, value: tuple[Modality, ...]) -> tuple[Modality, ...]:
        if not value or len(set(value)) < len(value):
            raise ValueError("must name at least one modality, and each once")
        return value

    @model_validator(mode="after")
    def _knows_modalities(self) -> Contract:
        known = (*MODALITIES, *self.encoding.added)
        for name in (*self.modalities, *self.temperatures):
            if name not in known:
                raise ValueError(f"modality '{name}' is not one of {', '.join(known)}")
        if self.encoding.added and self.format < FORMAT:
            raise ValueError(f"encoding.added needs format {FORMAT}, not {self.format}")
        return self

    @property
    def is_random(self) -> bool:
        """True where nothing was trained: answers mean nothing."""
        return bool(self.provenance.get("random_weights", False))

    @property
    def warning(self) -> str:
        """Why answers on real images are worth little, for the log; empty as a rule."""
        if self.is_random:
            return "untrained weights: labels mean nothing"
        run = self.provenance.get("run")
        data = run.get("data") if isinstance(run, Mapping) else None
        parts = data if isinstance(data, Sequence) else ()
        readers = [str(part.get("reader", "")) for part in parts if isinstance(part, Mapping)]
        if readers and all(name.startswith("synthetic") for name in readers):
            places = "streets" if all("street" in name for name in readers) else "scenes"
            return f"trained on rendered {places} only"
        return ""

    def require(self, modality: Modality, where: str) -> None:
        """Checks that the weights were trained for this X sensor.

        Args:
            modality: the sensor.
            where: what holds the weights, for the message.

        Raises:
            CheckpointError: when they were not.
        """
        if modality not in self.modalities:
            near = did_you_mean(modality, self.modalities)
            raise CheckpointError(
                f"{where}: trained for {', '.join(self.modalities)}; asked for {modality}"
                f"{near if 'did you mean' in near else ''}"
            )

    def slot_of(self, modality: Modality) -> int:
        """See `sensors.slot_of`."""
        return slot_of(modality, self.encoding)


@dataclass(frozen=True, eq=False)
class LoadedCheckpoint:
    """A checkpoint in memory.

    Attributes:
        name: file name, for messages.
        contract: what it promises.
        label_space: the contract's label space.
        model: the network, in evaluation mode.
        ma_clip: MA-CLIP, frozen.
        hash: SHA-256 of the file, hexadecimal; empty for weights that came from no file.
    """

    name: str
    contract: Contract
    label_space: LabelSpace
    model: RgbxNetwork
    ma_clip: ModalityAwareClip
    hash: str

    def require(self, modality: Modality) -> None:
        """As `Contract.require`."""
        self.contract.require(modality, f"checkpoint {self.name}")


def save_checkpoint(
    path: Path | str,
    model: nn.Module,
    ma_clip: ModalityAwareClip,
    contract: Contract,
    dtype: torch.dtype | None = None,
) -> None:
    """Writes one checkpoint, complete or not at all.

    Args:
        path: a .safetensors file; an earlier one is replaced.
        model: SegRGB-X as the contract describes it.
        ma_clip: MA-CLIP as the contract describes it, without a merged adapter.
        contract: what the weights promise.
        dtype: number format of stored weights; None keeps each tensor's own.

    Raises:
        CheckpointError: when an adapter is merged or the file cannot be written.
    """
    if ma_clip.merged is not None:
        raise CheckpointError(
            f"{path}: the {ma_clip.merged} adapter is merged; unmerge before saving"
        )
    tensors = {
        f"{part}.{name}": tensor.to(dtype) if dtype and tensor.is_floating_point() else tensor
        for part, module in zip(_PARTS, (model, ma_clip), strict=True)
        for name, tensor in module.state_dict().items()
    }
    write_tensors(path, tensors, contract_header(contract))


def plain_contract(contract: Contract) -> dict[str, Any]:
    """A contract as files hold it.

    One without temperatures, or weights of fused answers, has no entry for them, so that earlier
    versions read it, too.
    """
    plain = to_plain(contract)
    for name in ("temperatures", "fusion"):
        if not plain[name]:
            del plain[name]
    return plain


def contract_header(contract: Contract) -> dict[str, str]:
    """Header of a file of tensors that keep a contract."""
    return {KEY: json.dumps(plain_contract(contract), sort_keys=True)}


def load_checkpoint(path: Path | str, device: torch.device | str = "cpu") -> LoadedCheckpoint:
    """Reads a checkpoint strictly: every weight has its place and every place its weight.

    Weights become float32 whatever the number format of the file. Nothing is allocated for them
    before the contract is read and the shapes in the file's header are those of its model.

    Raises:
        CheckpointError: when the file is missing, foreign, damaged, newer than this package or
            changed while it is read, when its weights do not fit its contract, or are not finite.
    """
    where = f"checkpoint {path}"
    with TensorFile(path) as file:
        contract = _contract_of(where, file.metadata)
        space = LabelSpace.from_dict(contract.label_space)
        with torch.device("meta"):
            model, ma_clip = _networks(where, contract, space.num_classes)
        expected = {
            f"{part}.{name}": tensor
            for part, module in zip(_PARTS, (model, ma_clip), strict=True)
            for name, tensor in module.state_dict().items()
        }
        check_shapes(expected, file.shapes, where)
        tensors, digest = file.read()
    for name, tensor in tensors.items():
        tensors[name] = tensor.float() if tensor.is_floating_point() else tensor
    check_numbers(expected, tensors, where)
    for part, module in zip(_PARTS, (model, ma_clip), strict=True):
        own = {name: f"{part}.{name}" for name in module.state_dict()}
        module.load_state_dict({name: tensors[own[name]] for name in own}, assign=True)
    model.reset_normalisation()
    ma_clip.reset_normalisation()
    return LoadedCheckpoint(
        name=Path(path).name,
        contract=contract,
        label_space=space,
        model=model.eval().to(device),
        ma_clip=ma_clip.to(device),
        hash=digest,
    )


def read_contract(path: Path | str) -> Contract:
    """The contract alone, without building models.

    Raises:
        CheckpointError: as `load_checkpoint`.
    """
    return _contract_of(f"checkpoint {path}", read_metadata(path))


def default_contract(preset: str = "b2", tower: str = "", **changes: Any) -> Contract:
    """The contract of a new checkpoint: default encodings, unified label space, every modality.

    Args:
        preset: name in `segrgbx_core.model.ALL_PRESETS`.
        tower: name in `CLIP_PRESETS`; empty takes the paper's `vit_b16`, but `tiny` for sizes
            `tiny` and `lite0` and for baselines, which do not look at embeddings.
        changes: fields of `Contract` that differ from the defaults.

    Raises:
        ConfigError: when a name is not known.
    """
    tower = tower or default_tower(preset)
    for name, known in ((preset, ALL_PRESETS), (tower, CLIP_PRESETS)):
        if name not in known:
            raise ConfigError(f"preset '{name}' is not known{did_you_mean(name, known)}")
    side = 128 if preset.endswith("tiny") else 512
    fields: dict[str, Any] = {
        "model": ALL_PRESETS[preset],
        "ma_clip": CLIP_PRESETS[tower],
        "input": InputConfig(height=side, width=side),
        "label_space": unified_label_space().to_dict(),
    }
    return Contract(**{**fields, **changes})


def default_tower(preset: str) -> str:
    """The tower of `CLIP_PRESETS` that goes with a preset; see `default_contract`."""
    small = preset.endswith(("tiny", "lite0")) or preset in BASELINE_PRESETS
    return "tiny" if small else "vit_b16"


def random_checkpoint(
    path: Path | str, preset: str = "tiny", seed: int = 0, **changes: Any
) -> Contract:
    """Writes a checkpoint of untrained weights, for tests and dry runs; returns its contract.

    Args:
        path: the file.
        preset: see `default_contract`.
        seed: the same seed gives the same file.
        changes: fields of `Contract` that differ from the defaults.
    """
    loaded = random_weights(default_contract(preset, **changes), seed)
    save_checkpoint(path, loaded.model, loaded.ma_clip, loaded.contract)
    return loaded.contract


def random_weights(contract: Contract, seed: int = 0) -> LoadedCheckpoint:
    """Untrained weights under a contract, for tests and dry runs; the same for the same seed.

    The adapters are drawn at random too, so that modalities differ; the contract is marked random.
    """
    provenance = {**contract.provenance, "random_weights": True, "seed": seed}
    contract = contract.model_copy(update={"provenance": provenance})
    space = LabelSpace.from_dict(contract.label_space)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, ma_clip = build_networks(contract, space.num_classes)
        with torch.no_grad():
            for name, tensor in ma_clip.named_parameters():
                if ".lora_" in name and "up" in name.rpartition(".lora_")[2]:
                    tensor.normal_(std=0.02)
    return LoadedCheckpoint("(random weights)", contract, space, model.eval(), ma_clip, hash="")


def build_networks(contract: Contract, num_classes: int) -> tuple[RgbxNetwork, ModalityAwareClip]:
    """Both networks of a contract with their initial weights.

    Raises:
        ConfigError: when the contract describes no network.
    """
    model = build_model(contract.model, num_classes, contract.ma_clip.output_dim)
    ma_clip = ModalityAwareClip(contract.ma_clip)
    for modality in contract.encoding.added:
        model.add_modality()
        ma_clip.add_modality(modality)
    return model, ma_clip


def parse_contract(data: Any, where: str) -> Contract:
    """A contract from plain values of a file.

    Raises:
        CheckpointError: when an option is missing, unknown or out of range, or the format is
            newer than this package reads.
    """
    number = data.get("format") if isinstance(data, dict) else None
    if type(number) is not int or number < 1:
        raise CheckpointError(
            f"{where}: its contract is damaged (format {shortened(repr(number))}); write it anew"
        )
    if number > FORMAT:
        raise CheckpointError(
            f"{where}: format {number} is newer than this package reads ({FORMAT}); update segrgbx"
        )
    size = data.get("input", {})
    if isinstance(size, dict):  # files from before `pad` hold networks that were trained without
        data = {**data, "input": {"pad": False, **size}}
    try:
        return from_mapping(Contract, data, where=where)
    except ConfigError as error:
        raise CheckpointError(shortened(str(error), _LONGEST)) from None
    except (ValueError, RecursionError) as error:  # JSON that Python reads and pydantic does not
        raise CheckpointError(
            f"{where}: its contract is damaged ({shortened(str(error))}); write it anew"
        ) from None


def _contract_of(where: str, metadata: dict[str, str]) -> Contract:
    if KEY not in metadata:
        raise CheckpointError(
            f"{where}: has no segrgbx contract; it is weights of another program, "
            "use a file that segrgbx training wrote"
        )
    return parse_contract(parse_json_object(metadata[KEY], f"{where}: its contract"), where)


def _networks(
    where: str, contract: Contract, num_classes: int
) -> tuple[RgbxNetwork, ModalityAwareClip]:
    """Both networks of a contract; on the meta device they take no memory."""
    try:
        return build_networks(contract, num_classes)
    except (ConfigError, ValueError, RuntimeError, OverflowError) as error:
        raise CheckpointError(
            f"{where}: its contract describes no network ({shortened(str(error), 200)})"
        ) from None
