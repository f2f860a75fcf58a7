"""SegFormers with random weights as NVIDIA, transformers and mmsegmentation write them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from baseline_formulas import bilinear, bn, conv, head, ln, map_of, mit_stage, tokens_of
from baseline_shapes import CLASSES, DEPTHS, DIMS, HEADS, HIDDEN, RATIOS, WIDTH, Shapes, filled

SHAPE = {
    "embed_dims": DIMS, "depths": DEPTHS, "num_heads": HEADS, "mlp_ratios": (float(HIDDEN),) * 4,
}  # fmt: skip


def nvidia_state():
    """Names of NVIDIA's code; its head carries a classifier that it does not use."""
    shapes = Shapes()
    shapes.encoder("backbone.")
    shapes.head()
    shapes.layer("decode_head.conv_seg", CLASSES, 128, 1, 1)
    return filled(shapes, 5)


def nvidia_logits(w, rgb):
    """NVIDIA's network in a second writing; `rgb` is normalised."""
    maps, image = [], rgb
    for index in range(4):
        image = mit_stage(w, "backbone.", index, image, (1e-5, 1e-6))
        maps.append(image)
    return head(w, maps)


def mmseg_state():
    """Names of mmsegmentation."""
    shapes = Shapes()
    for i, (width, ratio) in enumerate(zip(DIMS, RATIOS, strict=True)):
        stage, before, side = f"backbone.layers.{i}", DIMS[i - 1] if i else 3, 3 if i else 7
        shapes.layer(f"{stage}.0.projection", width, before, side, side)
        shapes.layer(f"{stage}.0.norm", width)
        shapes.layer(f"{stage}.2", width)
        for j in range(DEPTHS[i]):
            name = f"{stage}.1.{j}"
            shapes.layer(f"{name}.norm1", width)
            shapes.layer(f"{name}.norm2", width)
            shapes[f"{name}.attn.attn.in_proj_weight"] = (3 * width, width)
            shapes[f"{name}.attn.attn.in_proj_bias"] = (3 * width,)
            shapes.layer(f"{name}.attn.attn.out_proj", width, width)
            if ratio > 1:
                shapes.layer(f"{name}.attn.sr", width, width, ratio, ratio)
                shapes.layer(f"{name}.attn.norm", width)
            shapes.layer(f"{name}.ffn.layers.0", HIDDEN * width, width, 1, 1)
            shapes.layer(f"{name}.ffn.layers.1", HIDDEN * width, 1, 3, 3)
            shapes.layer(f"{name}.ffn.layers.4", width, HIDDEN * width, 1, 1)
        shapes.layer(f"decode_head.convs.{i}.conv", WIDTH, width, 1, 1, bias=False)
        shapes.batch_norm(f"decode_head.convs.{i}.bn", WIDTH)
    shapes.layer("decode_head.fusion_conv.conv", WIDTH, 4 * WIDTH, 1, 1, bias=False)
    shapes.batch_norm("decode_head.fusion_conv.bn", WIDTH)
    shapes.layer("decode_head.conv_seg", CLASSES, WIDTH, 1, 1)
    return filled(shapes, 6)


def mmseg_logits(w, rgb):
    """mmsegmentation's network in a second writing, attention by torch; `rgb` is normalised."""
    image, maps = rgb, []
    for i, (heads, ratio) in enumerate(zip(HEADS, RATIOS, strict=True)):
        stage = f"backbone.layers.{i}"
        stride, pad = (2, 1) if i else (4, 3)
        image = conv(w, f"{stage}.0.projection", image, stride, pad)
        size = tuple(image.shape[2:])
        t = ln(w, f"{stage}.0.norm", tokens_of(image), 1e-6)
        for j in range(DEPTHS[i]):
            name = f"{stage}.1.{j}"
            normed = context = ln(w, f"{name}.norm1", t, 1e-6)
            if ratio > 1:
                reduced = conv(w, f"{name}.attn.sr", map_of(normed, size), ratio)
                context = ln(w, f"{name}.attn.norm", tokens_of(reduced), 1e-6)
            t = t + attention(w, f"{name}.attn.attn", normed, context, heads)
            wide = conv(w, f"{name}.ffn.layers.0", map_of(ln(w, f"{name}.norm2", t, 1e-6), size))
            kernel, bias = (w[f"{name}.ffn.layers.1.{one}"] for one in ("weight", "bias"))
            mixed = F.gelu(F.conv2d(wide, kernel, bias, padding=1, groups=wide.shape[1]))
            t = t + tokens_of(conv(w, f"{name}.ffn.layers.4", mixed))
        image = map_of(ln(w, f"{stage}.2", t, 1e-6), size)
        maps.append(image)
    parts = [
        bilinear(bn(w, f"decode_head.convs.{i}.bn", F.conv2d(
            one, w[f"decode_head.convs.{i}.conv.weight"])).relu(), maps[0].shape[2:])
        for i, one in enumerate(maps)
    ]  # fmt: skip
    fused = F.conv2d(torch.cat(parts, 1), w["decode_head.fusion_conv.conv.weight"])
    return conv(w, "decode_head.conv_seg", bn(w, "decode_head.fusion_conv.bn", fused).relu())


def attention(w, name, query, context, heads):
    query, context = query.transpose(0, 1), context.transpose(0, 1)
    out, _ = F.multi_head_attention_forward(
        query, context, context, query.shape[-1], heads,
        w[f"{name}.in_proj_weight"], w[f"{name}.in_proj_bias"], None, None, False, 0.0,
        w[f"{name}.out_proj.weight"], w[f"{name}.out_proj.bias"], training=False,
    )  # fmt: skip
    return out.transpose(0, 1)


def transformers_model(classes=CLASSES):
    """transformers' own network, float64, with noise on what starts constant."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    public = transformers.SegformerForSemanticSegmentation(
        transformers.SegformerConfig(
            hidden_sizes=list(DIMS), depths=list(DEPTHS), num_attention_heads=list(HEADS),
            mlp_ratios=[HIDDEN] * 4, decoder_hidden_size=WIDTH, num_labels=classes,
        )
    )  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, values in public.state_dict().items():
            if values.is_floating_point():
                noise = torch.rand(values.shape, generator=generator)
                values += 0.3 * (noise if name.endswith("running_var") else noise - 0.5)
    return public.double().eval()
