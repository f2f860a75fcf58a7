"""Trained SegFormers of NVIDIA, transformers and mmsegmentation: names, epsilons, head.

`{i}` counts stages from 0, `<i>` from 1, as in `weights` and `released`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from segrgbx_core.base.errors import CheckpointError
from segrgbx_core.model.baselines.segformer import SegformerConfig
from segrgbx_core.model.weights import (
    HUGGING_FACE_NEW,
    HUGGING_FACE_OLD,
    MMSEG,
    NVIDIA,
    Naming,
    Rows,
    Sources,
    State,
    renamed,
)


@dataclass(frozen=True)
class CodeBase:
    """Code that writes SegFormer checkpoints.

    Attributes:
        title: for messages and the provenance.
        prefix: what stands before the names of the encoder.
        naming: of the encoder.
        head: our names of the head to theirs.
        mark: a tensor of the head that no other code base writes.
        last: the classifier.
        left_out: beginnings of names that the network never uses.
        backbone: options of the encoder that differ from NVIDIA's.
        projection_norm: as in `SegformerConfig`.
    """

    title: str
    prefix: str
    naming: Naming
    head: Rows
    mark: str
    last: str
    left_out: tuple[str, ...] = ()
    backbone: Mapping[str, float] = field(default_factory=dict)
    projection_norm: bool = False

    def sources(self, name: str) -> Sources:
        """Our parameter name to the names in the file."""
        if name.startswith("backbone."):
            inner = self.naming.sources(name.removeprefix("backbone."))
            return tuple(f"{self.prefix}{theirs}" for theirs in inner)
        return (renamed(name, self.head),)

    def config(self, config: SegformerConfig) -> SegformerConfig:
        """The network with what this code base does otherwise."""
        changes: dict[str, Any] = {
            "backbone": config.backbone.model_copy(update=dict(self.backbone)),
            "projection_norm": self.projection_norm,
        }
        return config.model_copy(update=changes)


_NVIDIA = CodeBase(
    title="SegFormer (NVIDIA)",
    prefix="backbone.",
    naming=NVIDIA,
    head=(
        (r"^head\.projections\.(\d)\.", r"decode_head.linear_c<\1>.proj."),
        (r"^head\.fuse\.", "decode_head.linear_fuse.conv."),
        (r"^head\.norm\.", "decode_head.linear_fuse.bn."),
        (r"^head\.classifier\.", "decode_head.linear_pred."),
    ),
    mark="decode_head.linear_pred.weight",
    last="decode_head.linear_pred.",
    # The base class of its heads brings a classifier that this head does not use.
    left_out=("decode_head.conv_seg.", "backbone.head."),
)


def _transformers(naming: Naming, projections: str) -> CodeBase:
    return CodeBase(
        title=naming.title,
        prefix="segformer.",
        naming=naming,
        head=(
            (r"^head\.projections\.(\d)\.", rf"decode_head.{projections}.\1.proj."),
            (r"^head\.fuse\.", "decode_head.linear_fuse."),
            (r"^head\.norm\.", "decode_head.batch_norm."),
            (r"^head\.classifier\.", "decode_head.classifier."),
        ),
        mark=f"decode_head.{projections}.0.proj.weight",
        last="decode_head.classifier.",
        # Its `layer_norm_eps` of 1e-6 is read by no layer.
        backbone={"block_norm_eps": 1e-5},
    )


_MMSEG = CodeBase(
    title="SegFormer (mmsegmentation)",
    prefix="backbone.",
    naming=MMSEG,
    head=(
        (r"^head\.projections\.(\d)\.0\.", r"decode_head.convs.\1.conv."),
        (r"^head\.projections\.(\d)\.1\.", r"decode_head.convs.\1.bn."),
        (r"^head\.fuse\.", "decode_head.fusion_conv.conv."),
        (r"^head\.norm\.", "decode_head.fusion_conv.bn."),
        (r"^head\.classifier\.", "decode_head.conv_seg."),
    ),
    mark="decode_head.fusion_conv.conv.weight",
    last="decode_head.conv_seg.",
    backbone={"patch_norm_eps": 1e-6},
    projection_norm=True,
)
CODE_BASES = (
    _NVIDIA,
    _transformers(HUGGING_FACE_OLD, "linear_c"),
    _transformers(HUGGING_FACE_NEW, "linear_projections"),
    _MMSEG,
)


def code_base_of(state: State, where: str) -> CodeBase:
    """The code that wrote a trained SegFormer, recognised by its head.

    Args:
        state: the file's tensors, without `module.`.
        where: put before every message.

    Raises:
        CheckpointError: when it is none of `CODE_BASES`, such as an encoder alone.
    """
    found = next((one for one in CODE_BASES if one.mark in state), None)
    if found is None:
        known = ", ".join(one.mark for one in CODE_BASES)
        raise CheckpointError(
            f"{where}: is no whole segformer; expected one of {known}; encoders alone are for "
            "encoder_weights in training"
        )
    return found
