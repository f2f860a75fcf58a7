"""A slow second writing of CMX's published formulas with a shared encoder, for parity tests.

It knows only the public names of weights and plain sums. `w` holds weights by public name.
"""

from __future__ import annotations

import math

import torch

DIMS, DEPTHS, HEADS, RATIOS = (8, 16, 18, 24), (1, 2, 1, 1), (1, 2, 3, 4), (8, 4, 2, 1)
CLASSES, HEAD_WIDTH, HIDDEN = 5, 12, 2


def linear(w, name, t):
    out = torch.einsum("...i,oi->...o", t, w[f"{name}.weight"])
    return out + w[f"{name}.bias"] if f"{name}.bias" in w else out


def conv(w, name, image, stride=1, pad=0):
    kernel = w[f"{name}.weight"]
    depthwise = kernel.shape[1] == 1 and image.shape[1] > 1
    batch, channels, height, width = image.shape
    padded = torch.zeros(batch, channels, height + 2 * pad, width + 2 * pad, dtype=image.dtype)
    padded[:, :, pad : pad + height, pad : pad + width] = image
    side = kernel.shape[-1]
    rows = (height + 2 * pad - side) // stride + 1
    columns = (width + 2 * pad - side) // stride + 1
    out = 0
    for dy in range(side):
        for dx in range(side):
            seen = padded[
                :, :, dy : dy + stride * (rows - 1) + 1 : stride,
                dx : dx + stride * (columns - 1) + 1 : stride,
            ]  # fmt: skip
            tap = kernel[:, :, dy, dx]
            if depthwise:
                out = out + seen * tap[:, 0][None, :, None, None]
            else:
                out = out + torch.einsum("bihw,oi->bohw", seen, tap)
    return out + w[f"{name}.bias"][None, :, None, None] if f"{name}.bias" in w else out


def layer_norm(w, name, t, eps):
    mean = t.sum(-1, keepdim=True) / t.shape[-1]
    variance = ((t - mean) ** 2).sum(-1, keepdim=True) / t.shape[-1]
    return (t - mean) / (variance + eps) ** 0.5 * w[f"{name}.weight"] + w[f"{name}.bias"]


def batch_norm(w, name, t, eps):
    mean, variance = w[f"{name}.running_mean"], w[f"{name}.running_var"]
    scale = w[f"{name}.weight"] / (variance + eps) ** 0.5
    return (t - mean[:, None, None]) * scale[:, None, None] + w[f"{name}.bias"][:, None, None]


def softmax(t, axis):
    e = (t - t.amax(axis, keepdim=True).detach()).exp()
    return e / e.sum(axis, keepdim=True)


def gelu(t):
    return 0.5 * t * (1 + torch.erf(t / math.sqrt(2)))


def tokens_of(image):
    batch, channels = image.shape[:2]
    return image.permute(0, 2, 3, 1).reshape(batch, -1, channels)


def map_of(t, size):
    return t.reshape(t.shape[0], *size, t.shape[2]).permute(0, 3, 1, 2)


def resized(image, size):
    for axis, length in ((2, size[0]), (3, size[1])):
        old = image.shape[axis]
        weights = torch.zeros(length, old, dtype=image.dtype)
        for i in range(length):
            centre = min(max((i + 0.5) * old / length - 0.5, 0.0), old - 1.0)
            low = int(centre)
            high = min(low + 1, old - 1)
            weights[i, low] += 1 - (centre - low)
            weights[i, high] += centre - low
        image = torch.tensordot(image, weights, dims=([axis], [1])).movedim(-1, axis)
    return image


def attention(w, name, t, size, heads, ratio):
    width = t.shape[-1]
    depth = width // heads
    q = linear(w, f"{name}.q", t)
    context = t
    if ratio > 1:
        reduced = tokens_of(conv(w, f"{name}.sr", map_of(t, size), stride=ratio))
        context = layer_norm(w, f"{name}.norm", reduced, 1e-5)
    kv = linear(w, f"{name}.kv", context)
    outs = []
    for head in range(heads):
        own = slice(head * depth, (head + 1) * depth)
        k, v = kv[..., :width][..., own], kv[..., width:][..., own]
        scores = torch.einsum("bnd,bmd->bnm", q[..., own], k) / math.sqrt(depth)
        outs.append(torch.einsum("bnm,bmd->bnd", softmax(scores, -1), v))
    return linear(w, f"{name}.proj", torch.cat(outs, -1))


def block(w, name, t, size, heads, ratio):
    t = t + attention(
        w, f"{name}.attn", layer_norm(w, f"{name}.norm1", t, 1e-6), size, heads, ratio
    )
    hidden = linear(w, f"{name}.mlp.fc1", layer_norm(w, f"{name}.norm2", t, 1e-6))
    mixed = tokens_of(conv(w, f"{name}.mlp.dwconv.dwconv", map_of(hidden, size), pad=1))
    return t + linear(w, f"{name}.mlp.fc2", gelu(mixed))


def stage(w, index, image):
    n = index + 1
    stride, pad = (4, 3) if index == 0 else (2, 1)
    patches = conv(w, f"backbone.patch_embed{n}.proj", image, stride, pad)
    size = tuple(patches.shape[-2:])
    t = layer_norm(w, f"backbone.patch_embed{n}.norm", tokens_of(patches), 1e-5)
    for j in range(DEPTHS[index]):
        t = block(w, f"backbone.block{n}.{j}", t, size, HEADS[index], RATIOS[index])
    return map_of(layer_norm(w, f"backbone.norm{n}", t, 1e-6), size)


def rectify(w, index, x1, x2):
    name = f"backbone.FRMs.{index}"
    both = torch.cat([x1, x2], 1)
    g = torch.cat([both.mean((2, 3)), both.flatten(2).max(-1).values], 1)
    mlp = f"{name}.channel_weights.mlp"
    gates = torch.sigmoid(linear(w, f"{mlp}.2", linear(w, f"{mlp}.0", g).clamp(min=0)))
    w0, w1 = gates[:, : x1.shape[1], None, None], gates[:, x1.shape[1] :, None, None]
    mlp = f"{name}.spatial_weights.mlp"
    s = torch.sigmoid(conv(w, f"{mlp}.2", conv(w, f"{mlp}.0", both).clamp(min=0)))
    s0, s1 = s[:, :1], s[:, 1:]
    return x1 + (0.5 * w1 + 0.5 * s1) * x2, x2 + (0.5 * w0 + 0.5 * s0) * x1


def fuse(w, index, x1, x2):
    name, heads = f"backbone.FFMs.{index}", HEADS[index]
    width, size = x1.shape[1], x1.shape[2:]
    depth = width // heads
    t, y, u, contexts = [tokens_of(x1), tokens_of(x2)], [], [], []
    for i in (1, 2):
        half = linear(w, f"{name}.cross.channel_proj{i}", t[i - 1]).clamp(min=0)
        y.append(half[..., :width])
        u.append(half[..., width:])
        kv = linear(w, f"{name}.cross.cross_attn.kv{i}", u[-1])
        k = kv[..., :width].reshape(*kv.shape[:2], heads, depth)
        v = kv[..., width:].reshape(*kv.shape[:2], heads, depth)
        contexts.append(softmax(torch.einsum("bnhi,bnhj->bhij", k, v) / math.sqrt(depth), -2))
    outs = []
    for i in (0, 1):
        q = u[i].reshape(*u[i].shape[:2], heads, depth)
        z = torch.einsum("bnhi,bhij->bnhj", q, contexts[1 - i]).flatten(2)
        joined = linear(w, f"{name}.cross.end_proj{i + 1}", torch.cat([y[i], z], -1))
        outs.append(layer_norm(w, f"{name}.cross.norm{i + 1}", t[i] + joined, 1e-5))
    merged, channel = map_of(torch.cat(outs, -1), size), f"{name}.channel_emb"
    e = conv(w, f"{channel}.channel_embed.1", conv(w, f"{channel}.channel_embed.0", merged), pad=1)
    e = conv(w, f"{channel}.channel_embed.3", e.clamp(min=0))
    e = batch_norm(w, f"{channel}.channel_embed.4", e, 1e-5)
    return batch_norm(w, f"{channel}.norm", conv(w, f"{channel}.residual", merged) + e, 1e-5)


def head(w, maps):
    size = maps[0].shape[2:]
    parts = []
    for i in (4, 3, 2, 1):
        m = maps[i - 1]
        projected = map_of(linear(w, f"decode_head.linear_c{i}.proj", tokens_of(m)), m.shape[2:])
        parts.append(resized(projected, size))
    mixed = conv(w, "decode_head.linear_fuse.0", torch.cat(parts, 1))
    mixed = batch_norm(w, "decode_head.linear_fuse.1", mixed, 1e-3).clamp(min=0)
    return conv(w, "decode_head.linear_pred", mixed)


def normalised(image):
    mean = torch.tensor([0.485, 0.456, 0.406]).to(image.dtype)[:, None, None]
    return (image - mean) / torch.tensor([0.229, 0.224, 0.225]).to(image.dtype)[:, None, None]


def whole(w, rgb, x):
    x1, x2, fused = normalised(rgb), normalised(x), []
    for index in range(4):
        x1, x2 = rectify(w, index, stage(w, index, x1), stage(w, index, x2))
        fused.append(fuse(w, index, x1, x2))
    return resized(head(w, fused), rgb.shape[2:])


def cmx_shapes():
    """Every tensor of a CMX with one encoder, by its public name."""
    shapes = {}

    def add(name, *shape, bias=True):
        shapes[f"{name}.weight"] = shape
        if bias:
            shapes[f"{name}.bias"] = shape[:1]

    def add_batch_norm(name, width):
        add(name, width)
        shapes[f"{name}.running_mean"] = shapes[f"{name}.running_var"] = (width,)
        shapes[f"{name}.num_batches_tracked"] = ()

    for i, (width, ratio) in enumerate(zip(DIMS, RATIOS, strict=True)):
        n, before, kernel = i + 1, DIMS[i - 1] if i else 3, 3 if i else 7
        add(f"backbone.patch_embed{n}.proj", width, before, kernel, kernel)
        add(f"backbone.patch_embed{n}.norm", width)
        add(f"backbone.norm{n}", width)
        for j in range(DEPTHS[i]):
            name = f"backbone.block{n}.{j}"
            add(f"{name}.norm1", width)
            add(f"{name}.norm2", width)
            add(f"{name}.attn.q", width, width)
            add(f"{name}.attn.kv", 2 * width, width)
            add(f"{name}.attn.proj", width, width)
            if ratio > 1:
                add(f"{name}.attn.sr", width, width, ratio, ratio)
                add(f"{name}.attn.norm", width)
            add(f"{name}.mlp.fc1", HIDDEN * width, width)
            add(f"{name}.mlp.dwconv.dwconv", HIDDEN * width, 1, 3, 3)
            add(f"{name}.mlp.fc2", width, HIDDEN * width)
        frm, ffm = f"backbone.FRMs.{i}", f"backbone.FFMs.{i}"
        add(f"{frm}.channel_weights.mlp.0", 4 * width, 4 * width)
        add(f"{frm}.channel_weights.mlp.2", 2 * width, 4 * width)
        add(f"{frm}.spatial_weights.mlp.0", width, 2 * width, 1, 1)
        add(f"{frm}.spatial_weights.mlp.2", 2, width, 1, 1)
        for k in (1, 2):
            add(f"{ffm}.cross.channel_proj{k}", 2 * width, width)
            add(f"{ffm}.cross.cross_attn.kv{k}", 2 * width, width, bias=False)
            add(f"{ffm}.cross.end_proj{k}", width, 2 * width)
            add(f"{ffm}.cross.norm{k}", width)
        add(f"{ffm}.channel_emb.residual", width, 2 * width, 1, 1, bias=False)
        add(f"{ffm}.channel_emb.channel_embed.0", width, 2 * width, 1, 1)
        add(f"{ffm}.channel_emb.channel_embed.1", width, 1, 3, 3)
        add(f"{ffm}.channel_emb.channel_embed.3", width, width, 1, 1)
        add_batch_norm(f"{ffm}.channel_emb.channel_embed.4", width)
        add_batch_norm(f"{ffm}.channel_emb.norm", width)
        add(f"decode_head.linear_c{n}.proj", HEAD_WIDTH, width)
    add("decode_head.linear_fuse.0", HEAD_WIDTH, 4 * HEAD_WIDTH, 1, 1)
    add_batch_norm("decode_head.linear_fuse.1", HEAD_WIDTH)
    add("decode_head.linear_pred", CLASSES, HEAD_WIDTH, 1, 1)
    return shapes
