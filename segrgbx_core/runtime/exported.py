"""An exported model: a folder with ONNX graphs and the contract that they keep.

`scene.onnx` makes the scene of a pair of images. `frame.onnx` turns images and scene into labels,
for hosts of any kind; `logits.onnx` is the same network up to its logits, which this package turns
into labels of any label space on the grid of RGB. `contract.json` says what a checkpoint's
contract says and what the export chose; the graphs carry the same text in their metadata.
docs/deployment.md lists inputs and outputs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from segrgbx_core.base.config import from_mapping
from segrgbx_core.base.errors import CheckpointError, ConfigError
from segrgbx_core.base.modality import Modality
from segrgbx_core.labels.label_space import LabelSpace
from segrgbx_core.model.tensor_files import file_hash
from segrgbx_core.runtime.checkpoint import Contract, plain_contract

FORMAT = 1
"""Newest format of exported graphs that this package runs."""
KEY = "segrgbx"
FRAME, LOGITS, SCENE = "frame.onnx", "logits.onnx", "scene.onnx"
CONTRACT = "contract.json"


@dataclass(frozen=True, eq=False)
class ExportedModel:
    """The folder as it was read; graphs stay on disk.

    Attributes:
        name: folder name, for messages.
        folder: where the graphs lie.
        contract: what the checkpoint promised.
        label_space: the contract's label space.
        hash: SHA-256 of `logits.onnx`, hexadecimal.
        merged_for: the one modality that MA-CLIP serves, or None for all.
    """

    name: str
    folder: Path
    contract: Contract
    label_space: LabelSpace
    hash: str
    merged_for: Modality | None

    @property
    def logits(self) -> Path:
        """The graph of every frame."""
        return self.folder / LOGITS

    @property
    def scene(self) -> Path:
        """The graph of a look at the scene."""
        return self.folder / SCENE

    def require(self, modality: Modality) -> None:
        """As `Contract.require`."""
        self.contract.require(modality, f"exported model {self.name}")


def contract_text(contract: Contract, merged_for: Modality | None) -> str:
    """What `contract.json` and both graphs hold."""
    data = {
        "format": FORMAT,
        "merged_for": merged_for.value if merged_for else "",
        "contract": plain_contract(contract),
    }
    return json.dumps(data, sort_keys=True)


def read_exported(path: Path | str) -> ExportedModel:
    """Reads the folder that `segrgbx-export` wrote.

    Raises:
        CheckpointError: when a file is missing, foreign, damaged or newer than this package.
    """
    folder = Path(path)
    where = f"exported model {folder}"
    for name in (CONTRACT, LOGITS, SCENE):
        if not (folder / name).is_file():
            raise CheckpointError(
                f"{where}: has no {name}; backend onnx wants a folder that segrgbx-export wrote"
            )
    text = (folder / CONTRACT).read_text(encoding="utf-8")
    try:
        data = json.loads(text)
        number = int(data["format"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{where}: {CONTRACT} is damaged: {error}") from None
    if number > FORMAT:
        raise CheckpointError(
            f"{where}: format {number} is newer than this package runs ({FORMAT}); update segrgbx"
        )
    try:
        contract = from_mapping(Contract, data["contract"], where=where)
        merged_for = Modality(data["merged_for"]) if data["merged_for"] else None
    except (ConfigError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{where}: {CONTRACT} is damaged: {error}") from None
    return ExportedModel(
        name=folder.name,
        folder=folder,
        contract=contract,
        label_space=LabelSpace.from_dict(contract.label_space),
        hash=file_hash(folder / LOGITS),
        merged_for=merged_for,
    )


def refuse_exported(path: Path | str) -> None:
    """Says what to do with an exported model where a checkpoint is wanted.

    Raises:
        CheckpointError: when the path is an exported model's folder.
    """
    if (Path(path) / CONTRACT).is_file():
        raise CheckpointError(f"{path}: is an exported model; run it with backend: onnx")


def check_graph(model: ExportedModel, path: Path, carried: Mapping[str, str]) -> None:
    """Checks that a graph belongs to the contract beside it.

    Raises:
        CheckpointError: when it does not.
    """
    text = json.dumps(
        json.loads((model.folder / CONTRACT).read_text(encoding="utf-8")), sort_keys=True
    )
    if carried.get(KEY) != text:
        raise CheckpointError(
            f"exported model {path}: was exported with another contract than {CONTRACT} beside it"
        )
