"""A second writing of the baselines' published formulas, for parity tests.

It handles the two streams one after the other, knows only the public names of weights, and is slow
where ours is clever: pixels and heads one by one. `w` holds weights by public name.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from baseline_shapes import DEPTHS, DIMS, HEADS, RATIOS


def lin(w, name, t):
    return t @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0.0)


def conv(w, name, image, stride=1, pad=0):
    kernel = w[f"{name}.weight"]
    groups = image.shape[1] // kernel.shape[1]
    return F.conv2d(image, kernel, w.get(f"{name}.bias"), stride, pad, groups=groups)


def ln(w, name, t, eps):
    centred = t - t.mean(-1, keepdim=True)
    spread = (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    return centred / spread * w[f"{name}.weight"] + w[f"{name}.bias"]


def map_ln(w, name, image, eps):
    return ln(w, name, image.movedim(1, -1), eps).movedim(-1, 1)


def bn(w, name, image, eps=1e-5):
    slope = w[f"{name}.weight"] / (w[f"{name}.running_var"] + eps).sqrt()
    shift = w[f"{name}.bias"] - slope * w[f"{name}.running_mean"]
    return image * slope[:, None, None] + shift[:, None, None]


def tokens_of(image):
    return image.movedim(1, -1).flatten(1, 2)


def map_of(t, size):
    return t.unflatten(1, size).movedim(-1, 1)


def heads_of(w, name, t, size, index, eps, wrap="", stream=""):
    """Attention up to the merged heads."""
    width, count, ratio = DIMS[index], HEADS[index], RATIOS[index]
    q, context, depth = lin(w, f"{name}.q{wrap}", t), t, width // count
    if ratio > 1:
        context = tokens_of(conv(w, f"{name}.sr{wrap}", map_of(t, size), ratio))
        context = ln(w, f"{name}.norm{stream}", context, eps)
    kv = lin(w, f"{name}.kv{wrap}", context)
    outs = []
    for first in range(0, width, depth):
        k, v = kv[..., first : first + depth], kv[..., width + first : width + first + depth]
        scores = q[..., first : first + depth] @ k.mT / math.sqrt(depth)
        outs.append(scores.softmax(-1) @ v)
    return torch.cat(outs, -1)


def ffn(w, name, t, size, wrap=""):
    hidden = conv(w, f"{name}.dwconv.dwconv", map_of(lin(w, f"{name}.fc1{wrap}", t), size), pad=1)
    return lin(w, f"{name}.fc2{wrap}", F.gelu(tokens_of(hidden)))


def patches(w, name, image, index):
    return conv(w, name, image, *((4, 3) if index == 0 else (2, 1)))


def mit_stage(w, prefix, index, image, eps):
    patch_eps, block_eps = eps
    mapped = patches(w, f"{prefix}patch_embed{index + 1}.proj", image, index)
    size = tuple(mapped.shape[-2:])
    t = ln(w, f"{prefix}patch_embed{index + 1}.norm", tokens_of(mapped), patch_eps)
    for j in range(DEPTHS[index]):
        name = f"{prefix}block{index + 1}.{j}"
        normed = ln(w, f"{name}.norm1", t, block_eps)
        t = t + lin(
            w,
            f"{name}.attn.proj",
            heads_of(w, f"{name}.attn", normed, size, index, patch_eps),
        )
        t = t + ffn(w, f"{name}.mlp", ln(w, f"{name}.norm2", t, block_eps), size)
    return map_of(ln(w, f"{prefix}norm{index + 1}", t, block_eps), size)


def square_mean(image, side):
    """Mean over the part of a square that lies in the image, pixel by pixel."""
    rows, reach = [], side // 2
    for y in range(image.shape[2]):
        row = []
        for x in range(image.shape[3]):
            seen = image[
                :, :, max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1
            ]
            row.append(seen.mean((2, 3)))
        rows.append(torch.stack(row, -1))
    return torch.stack(rows, -2)


def ppx(w, name, x):
    u = bn(w, f"{name}.norm1", x)
    y = conv(w, f"{name}.attn.conv0", u, pad=3)
    z = y + square_mean(y, 3) + square_mean(y, 7) + square_mean(y, 11)
    a = torch.sigmoid(conv(w, f"{name}.attn.conv4", z)) * u + u
    x = x + w[f"{name}.layer_scale_1"][:, None, None] * a
    m, taps = x.mean((2, 3)), w[f"{name}.c_nets.0.weight"].flatten()
    gates = []
    for c in range(m.shape[1]):
        near = [taps[k] * m[:, c + k - 1] for k in range(3) if 0 <= c + k - 1 < m.shape[1]]
        gates.append(torch.sigmoid(sum(near)))
    hidden = conv(w, f"{name}.mlp.fc1", bn(w, f"{name}.norm2", x))
    hidden = F.gelu(conv(w, f"{name}.mlp.dwconv.dwconv", hidden, pad=1))
    mixed = w[f"{name}.layer_scale_2"][:, None, None] * conv(w, f"{name}.mlp.fc2", hidden)
    return torch.stack(gates, 1)[:, :, None, None] * x + mixed


def ppx_stage(w, index, image):
    patch = f"backbone.extra_downsample_layers.{index}"
    f = map_ln(w, f"{patch}.norm.ln_0", patches(w, f"{patch}.proj.module", image, index), 1e-6)
    for j in range(DEPTHS[index]):
        f = ppx(w, f"backbone.extra_block{index + 1}.{j}", f)
    return map_ln(w, f"backbone.extra_norm{index + 1}", f, 1e-6)


def rectify(w, name, x1, x2):
    both, width = torch.cat([x1, x2], 1), x1.shape[1]
    g = torch.cat([both.mean((2, 3)), both.amax((2, 3))], 1)
    g = torch.sigmoid(
        lin(w, f"{name}.channel_weights.mlp.2", lin(w, f"{name}.channel_weights.mlp.0", g).relu())
    )[:, :, None, None]
    s = conv(w, f"{name}.spatial_weights.mlp.0", both).relu()
    s = torch.sigmoid(conv(w, f"{name}.spatial_weights.mlp.2", s))
    out1 = x1 + (g[:, width:] + s[:, 1:]) / 2 * x2
    return out1, x2 + (g[:, :width] + s[:, :1]) / 2 * x1


def fuse(w, name, x1, x2, index):
    size, width, depth = x1.shape[2:], DIMS[index], DIMS[index] // HEADS[index]
    halves, contexts = [], []
    for k, x in ((1, x1), (2, x2)):
        halves.append(lin(w, f"{name}.cross.channel_proj{k}", tokens_of(x)).relu())
        kv = lin(w, f"{name}.cross.cross_attn.kv{k}", halves[-1][..., width:])
        contexts.append(
            [
                (kv[..., a : a + depth].mT @ kv[..., width + a : width + a + depth])
                .div(math.sqrt(depth))
                .softmax(-2)
                for a in range(0, width, depth)
            ]
        )
    outs = []
    for k, x in ((1, x1), (2, x2)):
        kept, asked = halves[k - 1][..., :width], halves[k - 1][..., width:]
        found = [
            asked[..., h * depth : (h + 1) * depth] @ context
            for h, context in enumerate(contexts[2 - k])
        ]
        joined = lin(w, f"{name}.cross.end_proj{k}", torch.cat([kept, *found], -1))
        outs.append(ln(w, f"{name}.cross.norm{k}", tokens_of(x) + joined, 1e-5))
    merged, embed = map_of(torch.cat(outs, -1), size), f"{name}.channel_emb.channel_embed"
    e = conv(w, f"{embed}.1", conv(w, f"{embed}.0", merged), pad=1).relu()
    e = bn(w, f"{embed}.4", conv(w, f"{embed}.3", e))
    return bn(w, f"{name}.channel_emb.norm", conv(w, f"{name}.channel_emb.residual", merged) + e)


def one_pixel(w, name, own, other, relation, k_noise, v_noise):
    """GeminiFusion's attention of every pixel to two tokens, pixel by pixel, head by head."""
    width = own.shape[-1]
    weights, biases = w[f"{name}.in_proj_weight"], w[f"{name}.in_proj_bias"]
    q, k, v = (
        (weights[part * width : (part + 1) * width], biases[part * width : (part + 1) * width])
        for part in range(3)
    )
    depth, pixels = width // 8, []
    for a, b, r in zip(
        own.flatten(0, 1), other.flatten(0, 1), relation.flatten(0, 1), strict=True
    ):
        query = q[0] @ a + q[1]
        keys = [k[0] @ token + k[1] for token in (a + k_noise, a * r)]
        values = [v[0] @ token + v[1] for token in (a + v_noise, b)]
        heads = []
        for first in range(0, width, depth):
            part = slice(first, first + depth)
            scores = torch.stack([query[part] @ key[part] for key in keys]) / math.sqrt(depth)
            share = scores.softmax(0)
            heads.append(share[0] * values[0][part] + share[1] * values[1][part])
        pixels.append(a + lin(w, f"{name}.out_proj", torch.cat(heads)))
    return torch.stack(pixels).reshape(own.shape)


def exchanged(w, name, a, b):
    def relation(own, other):
        hidden = F.gelu(lin(w, f"{name}.relation_judger.0.fc1", torch.cat([own, other], -1)))
        return lin(w, f"{name}.relation_judger.0.fc2", hidden).softmax(-1)

    k, v = w[f"{name}.k_noise.weight"], w[f"{name}.v_noise.weight"]
    return (
        one_pixel(w, f"{name}.cross_attn_0_to_1", a, b, relation(a, b), k[0], v[0]),
        one_pixel(w, f"{name}.cross_attn_1_to_0", b, a, relation(b, a), k[1], v[1]),
    )


def gemini_block(w, name, streams, size, index):
    found = [
        heads_of(
            w, f"{name}.attn", ln(w, f"{name}.norm1.ln_{m}", t, 1e-6), size, index, 1e-6,
            ".module", f".ln_{m}",
        )
        for m, t in enumerate(streams)
    ]  # fmt: skip
    outs = []
    for m, (t, a) in enumerate(zip(streams, exchanged(w, f"{name}.attn", *found), strict=True)):
        t = t + lin(w, f"{name}.attn.proj.module", a)
        normed = ln(w, f"{name}.norm2.ln_{m}", t, 1e-6)
        outs.append(t + ffn(w, f"{name}.mlp", normed, size, ".module"))
    return outs


def adapted(w, name, t):
    inner = lin(w, f"{name}.adapter_mid", lin(w, f"{name}.adapter_down", t))
    return lin(w, f"{name}.adapter_up", F.gelu(inner))


def stitch_block(w, name, streams, size, index, back="12", sequential=True):
    """`back`: names the adapter from X to RGB."""
    t = list(streams)

    def attention(one):
        return lin(w, f"{name}.attn.proj", heads_of(w, f"{name}.attn", one, size, index, 1e-5))

    for norm, kind, layer in (
        ("norm1", "att", attention),
        ("norm2", "mlp", lambda one: ffn(w, f"{name}.mlp", one, size)),
    ):
        before = list(t)
        for m in (0, 1):
            t[m] = t[m] + layer(ln(w, f"{name}.{norm}", t[m], 1e-5))
        read = t if sequential else before
        x_in = ln(w, f"{name}.{norm}", read[0], 1e-5)
        t[1] = t[1] + adapted(w, f"{name}.adap_t_{kind}12", x_in)
        rgb_in = ln(w, f"{name}.{norm}", read[1], 1e-5)
        t[0] = t[0] + adapted(w, f"{name}.adap_t_{kind}{back}", rgb_in)
    return t


def feature_cross(w, index, x1, x2):
    size, cross = x1.shape[2:], "backbone.feature_cross"
    s = lin(w, f"{cross}.liner_fusion_layers.{index}", tokens_of(torch.cat([x1, x2], 1)))
    mix = f"{cross}.mix_ffn.{index}"
    v = conv(w, f"{mix}.pwconv1.pwconv", map_of(lin(w, f"{mix}.fc1", s), size))
    v = bn(w, f"{mix}.pwconv1.bn", v)
    v = v + sum(conv(w, f"{mix}.dwconv{k}.dwconv", v, pad=k // 2) for k in (3, 5, 7))
    v = bn(w, f"{mix}.pwconv2.bn", conv(w, f"{mix}.pwconv2.pwconv", v))
    first = lin(w, f"{mix}.fc2", F.gelu(tokens_of(v)))
    gate = f"{cross}.channel_attns.{index}.fc"
    g = torch.sigmoid(lin(w, f"{gate}.2", lin(w, f"{gate}.0", s.mean(1)).relu()))
    return map_of(first + s * g[:, None], size)


def head(w, maps, prefix="decode_head.", conv_name="linear_fuse.conv", norm="bn", eps=1e-5):
    size, parts = maps[0].shape[2:], []
    for n in (4, 3, 2, 1):
        projected = lin(w, f"{prefix}linear_c{n}.proj", tokens_of(maps[n - 1]))
        parts.append(bilinear(map_of(projected, maps[n - 1].shape[2:]), size))
    mixed = bn(
        w, f"{prefix}linear_fuse.{norm}", conv(w, f"{prefix}{conv_name}", torch.cat(parts, 1)), eps
    )
    return conv(w, f"{prefix}linear_pred", mixed.relu())


def bilinear(image, size):
    return F.interpolate(image, size=tuple(size), mode="bilinear", align_corners=False)


def imagenet(image):
    mean, std = (
        torch.tensor(v).to(image.dtype)[:, None, None]
        for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    return (image - mean) / std


def streams_of(w, encoder, patch_norm, block, final_norm, rgb, x):
    """Maps of both streams after every stage of an encoder without fusion in between."""
    streams, maps = [imagenet(rgb), x], []
    for index in range(4):
        mapped = [
            patches(w, encoder.format(f"patch_embed{index + 1}.proj"), s, index) for s in streams
        ]
        size = tuple(mapped[0].shape[-2:])
        t = [patch_norm(index, m, tokens_of(s)) for m, s in enumerate(mapped)]
        for j in range(DEPTHS[index]):
            t = block(f"block{index + 1}.{j}", t, size, index)
        streams = [map_of(final_norm(index, m, one), size) for m, one in enumerate(t)]
        maps.append(streams)
    return maps


def whole(name, w, rgb, x):
    if name in ("cmx", "cmnext"):
        x1, x2, fused = imagenet(rgb), imagenet(x) if name == "cmx" else x, []
        eps = (1e-5, 1e-6 if name == "cmx" else 1e-5)
        for i in range(4):
            x1 = mit_stage(w, "backbone.", i, x1, eps)
            x2 = (
                mit_stage(w, "backbone.extra_", i, x2, eps)
                if name == "cmx"
                else ppx_stage(w, i, x2)
            )
            x1, x2 = rectify(w, f"backbone.FRMs.{i}", x1, x2)
            fused.append(fuse(w, f"backbone.FFMs.{i}", x1, x2, i))
        tail = {"conv_name": "linear_fuse.0", "norm": "1", "eps": 1e-3} if name == "cmx" else {}
        return bilinear(head(w, fused, **tail), rgb.shape[2:])
    if name == "geminifusion":
        maps = streams_of(
            w,
            "encoder.{}.module",
            lambda i, m, t: ln(w, f"encoder.patch_embed{i + 1}.norm.ln_{m}", t, 1e-6),
            lambda block, t, size, i: gemini_block(w, f"encoder.{block}", t, size, i),
            lambda i, m, t: ln(w, f"encoder.norm{i + 1}.ln_{m}", t, 1e-6),
            rgb,
            x,
        )
        share = w["alpha"].softmax(0)
        return sum(
            share[m] * bilinear(head(w, [s[m] for s in maps], "decoder."), rgb.shape[2:])
            for m in (0, 1)
        )
    maps = streams_of(
        w,
        "backbone.{}",
        lambda i, _, t: ln(w, f"backbone.patch_embed{i + 1}.norm", t, 1e-5),
        lambda block, t, size, i: stitch_block(w, f"backbone.{block}", t, size, i),
        lambda i, _, t: ln(w, f"backbone.norm{i + 1}", t, 1e-5),
        rgb,
        x,
    )
    fused = [feature_cross(w, i, *streams) for i, streams in enumerate(maps)]
    return bilinear(head(w, fused), rgb.shape[2:])
