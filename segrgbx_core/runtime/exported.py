"""Exported models: a folder of graphs with the contract that they keep, and the engine for them.

`scene.onnx` encodes the scene of a pair of images. `frame.onnx` turns images and scene into
labels, for hosts of any kind; `logits.onnx` is the same network up to its logits, which this
package turns into labels of any label space on the grid of RGB. `frame.pt2` and `scene.pt2` are
AOTInductor packages. `contract.json` holds the checkpoint's contract, the choices of the export
and the hash of every file; the graphs carry contract and choices in their metadata.
docs/deployment.md lists inputs and outputs.

Legend: B pairs, K prompts, D_i width of stage i, h w the grid of the last stage.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from segrgbx_core.base.errors import CheckpointError, SegrgbxError, shortened
from segrgbx_core.base.modality import Modality
from segrgbx_core.base.samples import Array
from segrgbx_core.labels.label_space import LabelSpace
from segrgbx_core.model import ModelConfig, Scene, build_model
from segrgbx_core.model.baselines import SegformerConfig
from segrgbx_core.model.tensor_files import MAX_JSON, file_hash, parse_json_object, read_file
from segrgbx_core.runtime.batch import Batch
from segrgbx_core.runtime.checkpoint import Contract, parse_contract, plain_contract
from segrgbx_core.runtime.devices import is_out_of_memory

FORMAT = 2
"""Newest format that this package runs; 2 added the hashes of the files."""
KEY = "segrgbx"
FRAME, LOGITS, SCENE = "frame.onnx", "logits.onnx", "scene.onnx"
AOT_FRAME, AOT_SCENE = "frame.pt2", "scene.pt2"
CONTRACT = "contract.json"
KV, QUERY = "prompt_kv_", "query_"
"""Prefixes of the names of a scene's tensors; a number follows, from 1."""
Shape: TypeAlias = tuple[int | None, ...]
"""Shape of a graph's input or output; None for a free dimension."""
MAX_GRAPH = 1 << 32
"""Bytes of a file; ONNX itself ends at half of it."""


@dataclass(frozen=True, eq=False)
class ExportedModel:
    """An exported folder; its graphs stay on disk until an engine reads them.

    Attributes:
        name: folder name, for messages.
        folder: the folder.
        contract: the checkpoint's contract.
        label_space: the contract's label space.
        hash: SHA-256 of `logits.onnx`, hexadecimal.
        merged_for: the one modality that MA-CLIP serves, or None for all.
        hashes: SHA-256 by file name; empty for folders of format 1.
        mark: the text that the graphs carry.
        source: what it was made from and how: `checkpoint`, the SHA-256 of the file, and options
            of the export; empty for folders that do not say it.
    """

    name: str
    folder: Path
    contract: Contract
    label_space: LabelSpace
    hash: str
    merged_for: Modality | None
    hashes: Mapping[str, str]
    mark: str
    source: Mapping[str, Any]

    @property
    def has_scene(self) -> bool:
        """True for networks that look at the scene, which have a graph for it."""
        return has_scene(self.contract)

    def require(self, modality: Modality) -> None:
        """As `Contract.require`."""
        self.contract.require(modality, f"exported model {self.name}")

    def read_file(self, file_name: str) -> bytes:
        """A file of the folder, in memory.

        Raises:
            CheckpointError: when it is missing, not the one that was exported with the contract,
                or changed while it is read.
        """
        data, digest = read_file(self.folder / file_name, MAX_GRAPH)
        expected = {self.hashes.get(file_name, digest)}
        if file_name == LOGITS:  # the hash that names this model is of that very file, too
            expected.add(self.hash)
        if expected != {digest}:
            raise CheckpointError(
                f"exported model {self.folder / file_name}: is not the file that was exported "
                f"with {CONTRACT} (SHA-256 differs); copy the whole folder again, or export anew"
            )
        return data


def has_scene(contract: Contract) -> bool:
    """True for SegRGB-X; baselines answer from the images alone."""
    return isinstance(contract.model, ModelConfig)


def folder_beside(checkpoint: Path | str, merged_for: Modality | None) -> Path:
    """Where `segrgbx-export CHECKPOINT` puts its export, and `backend: auto` looks for it."""
    path = Path(checkpoint)
    modality = f".{merged_for.value}" if merged_for else ""
    return path.with_name(f"{path.stem}{modality}.exported")


def contract_mark(
    contract: Contract, merged_for: Modality | None, source: Mapping[str, Any] | None = None
) -> str:
    """The text that every graph carries: contract, choices of the export, `source`."""
    return _sorted_json(_manifest(contract, merged_for, source))


def write_manifest(
    folder: Path,
    contract: Contract,
    merged_for: Modality | None,
    source: Mapping[str, Any] | None = None,
) -> None:
    """Writes `contract.json` for the files that lie in the folder now."""
    names = sorted(path.name for path in folder.iterdir() if path.name != CONTRACT)
    hashes = {name: file_hash(folder / name) for name in names}
    data = {**_manifest(contract, merged_for, source), "files": hashes}
    (folder / CONTRACT).write_text(_sorted_json(data) + "\n", encoding="utf-8")


def read_exported(path: Path | str) -> ExportedModel:
    """Reads the folder that `segrgbx-export` wrote.

    Raises:
        CheckpointError: when a file is missing, foreign, damaged or newer than this package.
    """
    folder = Path(path)
    where = f"exported model {folder}"
    if not (folder / CONTRACT).is_file():
        raise CheckpointError(
            f"{where}: has no {CONTRACT}; an exported model is a folder that segrgbx-export wrote"
        )
    place = f"{where}: {CONTRACT}"
    data = parse_json_object(read_file(folder / CONTRACT, MAX_JSON)[0], place)
    number = data.get("format")
    if type(number) is not int or number < 1:
        raise CheckpointError(
            f"{place} is damaged (format {shortened(repr(number))}); copy it anew"
        )
    if number > FORMAT:
        raise CheckpointError(
            f"{where}: format {number} is newer than this package runs ({FORMAT}); update segrgbx"
        )
    hashes = data.pop("files", {})
    merged, source = data.get("merged_for"), data.get("source", {})
    if (
        not isinstance(hashes, dict)
        or not isinstance(source, dict)
        or not all(isinstance(value, str) for value in hashes.values())
        or not isinstance(merged, str)
    ):
        raise CheckpointError(f"{place} is damaged (files, merged_for or source); copy it anew")
    contract = parse_contract(data.get("contract"), place)
    if merged and merged not in contract.modalities:
        raise CheckpointError(f"{place} is damaged (merged_for); copy it anew")
    for name in (LOGITS, *([SCENE] if has_scene(contract) else [])):
        if not (folder / name).is_file():
            raise CheckpointError(f"{where}: has no {name}; copy the whole folder again")
    return ExportedModel(
        name=folder.name,
        folder=folder,
        contract=contract,
        label_space=LabelSpace.from_dict(contract.label_space),
        hash=file_hash(folder / LOGITS),
        merged_for=Modality(merged) if merged else None,
        hashes=hashes,
        mark=_sorted_json(data),
        source=source,
    )


def refuse_exported(path: Path | str) -> None:
    """Refuses an exported model where a checkpoint is expected.

    Raises:
        CheckpointError: when the path is an exported model's folder.
    """
    if (Path(path) / CONTRACT).is_file():
        raise CheckpointError(
            f"{path}: is an exported model; run it with backend: onnx or openvino"
        )


class Graph(Protocol):
    """A loaded graph.

    Attributes:
        name: of its file.
        inputs: shapes by name.
        outputs: shapes by name, in order.
    """

    name: str
    inputs: Mapping[str, Shape]
    outputs: Mapping[str, Shape]

    def run(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """Outputs by name; the next call may overwrite them."""
        ...


class ExportedEngine:
    """An `Engine` of exported graphs, whose batches and answers are in host memory.

    Args:
        model: the exported model.
        name: runtime and device, as text.
        frame: the graph of every frame, with `logits` among its outputs.
        scene: the graph of the scene; None for networks without one.
        precision: number format of matrix products.

    Attributes:
        memory: bytes of the files of the graphs.
        fixed_size: (height, width) of all images, or None where the graphs leave them free.

    Raises:
        CheckpointError: when inputs or outputs of a graph are not those of the contract.
    """

    device = torch.device("cpu")

    def __init__(
        self,
        model: ExportedModel,
        name: str,
        frame: Graph,
        scene: Graph | None = None,
        precision: str = "fp32",
    ) -> None:
        self.name = name
        self.precision = precision
        self.merged_for = model.merged_for
        graphs = (frame,) if scene is None else (frame, scene)
        self.memory = sum((model.folder / graph.name).stat().st_size for graph in graphs)
        self._where = f"exported model {model.name}"
        self._num_classes = model.label_space.num_classes
        self._frame, self._scene = frame, scene
        parts = scene_shapes(model.contract)
        images: dict[str, Shape] = {"rgb": (None, None, None, 3), "x": (None, None, None, 3)}
        logits: Shape = (None, self._num_classes, None, None)
        self._scene_names = tuple(parts)
        every = {**images, **parts}
        # Runtimes may drop the X that a network of RGB alone does not read.
        rgb_alone = isinstance(model.contract.model, SegformerConfig)
        needed = {name: shape for name, shape in every.items() if name != "x" or not rgb_alone}
        self._compare("frame", "inputs", frame.inputs, every, required=needed)
        self._compare("frame", "outputs", frame.outputs, {"logits": logits}, required=("logits",))
        height, width = frame.inputs["rgb"][1:3]
        self.fixed_size = (height, width) if height and width else None
        if scene is not None:
            self._compare("scene", "inputs", scene.inputs, {**images, "modality": (None,)})
            self._compare("scene", "outputs", scene.outputs, parts, required=parts)

    def encode_scene(self, batch: Batch) -> Scene:
        """See `Engine`."""
        if self._scene is None:
            return Scene()
        given = {**_images(batch.without_border), "modality": batch.modality.numpy()}
        parts = self._run(
            self._scene, {name: given[name] for name in given if name in self._scene.inputs}
        )
        # A copy, because the next run may overwrite it and scenes are kept.
        tensors = [torch.from_numpy(np.array(parts[name])) for name in self._scene_names]
        num_stages = sum(name.startswith(KV) for name in self._scene_names)
        return scene_from_tensors(tensors, num_stages)

    def coarse_logits(self, batch: Batch, scene: Scene) -> Tensor:
        """See `Engine`; the next call may overwrite the result."""
        given = frame_inputs(batch, scene)
        logits = self._run(self._frame, {name: given[name] for name in self._frame.inputs})[
            "logits"
        ]
        size = (len(batch), self._num_classes)
        if logits.ndim != 4 or logits.shape[:2] != size or logits.dtype != np.float32:
            raise CheckpointError(
                f"{self._where}: logits are {logits.dtype} {logits.shape}; expected float32 "
                f"({size[0]}, {size[1]}, h, w); export anew"
            )
        return torch.from_numpy(logits)

    def _run(self, graph: Graph, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        try:
            return graph.run(feeds)
        except Exception as error:  # those of the runtimes share no other base
            if isinstance(error, SegrgbxError) or is_out_of_memory(error):
                raise
            raise CheckpointError(
                f"{self._where}: a graph failed in {self.name} ({shortened(str(error), 300)})"
            ) from error

    def _compare(
        self,
        graph: str,
        side: str,
        given: Mapping[str, Shape],
        expected: Mapping[str, Shape],
        required: Iterable[str] = (),
    ) -> None:
        """Every port that there is must fit, and those that are required must be there."""
        for name in (*required, *given):
            shape, wanted = given.get(name), expected.get(name)
            fits = shape is not None and wanted is not None and _fits(shape, wanted)
            if not fits and not (side == "outputs" and name not in expected):
                raise CheckpointError(
                    f"{self._where}: the {graph} graph's {side} hold {shortened(name)} "
                    f"{_shape_text(shape)}; its contract asks for {_shape_text(wanted)}; export "
                    "anew"
                )


def scene_shapes(contract: Contract) -> dict[str, Shape]:
    """Names and shapes of a scene's tensors, B as None; empty for networks without a scene."""
    if not has_scene(contract):
        return {}
    space = LabelSpace.from_dict(contract.label_space)
    with torch.device("meta"), torch.no_grad():
        model = build_model(contract.model, space.num_classes, contract.ma_clip.output_dim).eval()
        embedding = torch.empty(1, contract.ma_clip.output_dim)
        scene = model.encode_scene(embedding, embedding, torch.zeros(1, dtype=torch.int64))
    shapes: dict[str, Shape] = {}
    for name, tensor in named_scene_tensors(scene).items():
        batch_axis = 2 if name.startswith(KV) else 1
        shapes[name] = tuple(
            None if axis == batch_axis else size for axis, size in enumerate(tensor.shape)
        )
    return shapes


def named_scene_tensors(scene: Scene) -> dict[str, Tensor]:
    """`scene_to_tensors` by the names that graphs have for them."""
    names = [f"{KV}{index}" for index in range(1, len(scene.prompt_kv) + 1)]
    names += [f"{QUERY}{index}" for index in range(1, len(scene.queries) + 1)]
    return dict(zip(names, scene_to_tensors(scene), strict=True))


def frame_inputs(batch: Batch, scene: Scene) -> dict[str, Array]:
    """Inputs of the frame's graph by name."""
    parts = {name: part.numpy() for name, part in named_scene_tensors(scene).items()}
    return {**_images(batch), **parts}


def scene_to_tensors(scene: Scene) -> tuple[Tensor, ...]:
    """A scene's tensors with RGB and X on an axis of their own, prompts first."""
    kv = (torch.unflatten(part, 1, (2, -1)) for part in scene.prompt_kv)  # (blocks, 2, B, K, 2D_i)
    queries = (torch.unflatten(part, 0, (2, -1)) for part in scene.queries)  # (2, B, D_4, h, w)
    return (*kv, *queries)


def scene_from_tensors(tensors: Sequence[Tensor], num_stages: int) -> Scene:
    """The inverse of `scene_to_tensors`."""
    kv = tuple(part.flatten(1, 2) for part in tensors[:num_stages])  # (blocks, 2B, K, 2 D_i)
    return Scene(kv, tuple(part.flatten(0, 1) for part in tensors[num_stages:]))


def _images(batch: Batch) -> dict[str, Array]:
    images = {"rgb": batch.rgb_pixels.numpy(), "x": batch.x_pixels.numpy()}
    return {name: np.ascontiguousarray(image) for name, image in images.items()}


def _fits(shape: Shape, wanted: Shape) -> bool:
    return len(shape) == len(wanted) and all(
        size is None or other is None or size == other
        for size, other in zip(shape, wanted, strict=True)
    )


def _shape_text(shape: Shape | None) -> str:
    return (
        "nothing"
        if shape is None
        else f"({', '.join('*' if s is None else str(s) for s in shape)})"
    )


def _manifest(
    contract: Contract, merged_for: Modality | None, source: Mapping[str, Any] | None
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "merged_for": merged_for.value if merged_for else "",
        "contract": plain_contract(contract),
        **({"source": dict(source)} if source else {}),
    }


def _sorted_json(data: Mapping[str, Any]) -> str:
    return json.dumps(data, sort_keys=True)
