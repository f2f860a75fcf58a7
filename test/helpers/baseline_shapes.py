"""Tensors of the baselines' public checkpoints: names and shapes as their authors' code writes.

One small encoder stands for all sizes. `branch` picks among what a project has released: weights
of GeminiFusion's DELIVER branch (`deliver`), StitchFusion with one adapter for all pairs
(`shared`) or one per direction (`two`).
"""

from __future__ import annotations

import math

import torch

DIMS, DEPTHS, HEADS, RATIOS = (8, 16, 24, 32), (1, 2, 1, 1), (1, 2, 3, 4), (8, 4, 2, 1)
CLASSES, WIDTH, HIDDEN = 3, 12, 2
NAMES = ("cmx", "cmnext", "geminifusion", "stitchfusion")


class Shapes(dict):
    def layer(self, name, *shape, bias=True):
        self[f"{name}.weight"] = shape
        if bias:
            self[f"{name}.bias"] = shape[:1]

    def batch_norm(self, name, width):
        self.layer(name, width)
        self[f"{name}.running_mean"] = self[f"{name}.running_var"] = (width,)
        self[f"{name}.num_batches_tracked"] = ()

    def norm(self, name, width, paired=False):
        for one in (f"{name}.ln_0", f"{name}.ln_1") if paired else (name,):
            self.layer(one, width)

    def encoder(self, prefix, wrap="", paired=False, block=lambda *_: None):
        for i, (width, ratio) in enumerate(zip(DIMS, RATIOS, strict=True)):
            n, before, kernel = i + 1, DIMS[i - 1] if i else 3, 3 if i else 7
            self.layer(f"{prefix}patch_embed{n}.proj{wrap}", width, before, kernel, kernel)
            self.norm(f"{prefix}patch_embed{n}.norm", width, paired)
            self.norm(f"{prefix}norm{n}", width, paired)
            for j in range(DEPTHS[i]):
                name = f"{prefix}block{n}.{j}"
                self.norm(f"{name}.norm1", width, paired)
                self.norm(f"{name}.norm2", width, paired)
                self.layer(f"{name}.attn.q{wrap}", width, width)
                self.layer(f"{name}.attn.kv{wrap}", 2 * width, width)
                self.layer(f"{name}.attn.proj{wrap}", width, width)
                if ratio > 1:
                    self.layer(f"{name}.attn.sr{wrap}", width, width, ratio, ratio)
                    self.norm(f"{name}.attn.norm", width, paired)
                self.layer(f"{name}.mlp.fc1{wrap}", HIDDEN * width, width)
                self.layer(f"{name}.mlp.dwconv.dwconv", HIDDEN * width, 1, 3, 3)
                self.layer(f"{name}.mlp.fc2{wrap}", width, HIDDEN * width)
                block(name, width)

    def head(self, prefix="decode_head.", conv="linear_fuse.conv", norm="linear_fuse.bn", bias=0):
        for i, width in enumerate(DIMS):
            self.layer(f"{prefix}linear_c{i + 1}.proj", WIDTH, width)
        self.layer(f"{prefix}{conv}", WIDTH, 4 * WIDTH, 1, 1, bias=bool(bias))
        self.batch_norm(f"{prefix}{norm}", WIDTH)
        self.layer(f"{prefix}linear_pred", CLASSES, WIDTH, 1, 1)

    def dual_fusion(self):
        for i, width in enumerate(DIMS):
            frm, ffm = f"backbone.FRMs.{i}", f"backbone.FFMs.{i}"
            self.layer(f"{frm}.channel_weights.mlp.0", 4 * width, 4 * width)
            self.layer(f"{frm}.channel_weights.mlp.2", 2 * width, 4 * width)
            self.layer(f"{frm}.spatial_weights.mlp.0", width, 2 * width, 1, 1)
            self.layer(f"{frm}.spatial_weights.mlp.2", 2, width, 1, 1)
            for k in (1, 2):
                self.layer(f"{ffm}.cross.channel_proj{k}", 2 * width, width)
                self.layer(f"{ffm}.cross.cross_attn.kv{k}", 2 * width, width, bias=False)
                self.layer(f"{ffm}.cross.end_proj{k}", width, 2 * width)
                self.layer(f"{ffm}.cross.norm{k}", width)
            embed = f"{ffm}.channel_emb.channel_embed"
            self.layer(f"{ffm}.channel_emb.residual", width, 2 * width, 1, 1, bias=False)
            self.layer(f"{embed}.0", width, 2 * width, 1, 1)
            self.layer(f"{embed}.1", width, 1, 3, 3)
            self.layer(f"{embed}.3", width, width, 1, 1)
            self.batch_norm(f"{embed}.4", width)
            self.batch_norm(f"{ffm}.channel_emb.norm", width)

    def pooling_encoder(self):
        for i, width in enumerate(DIMS):
            n, before, kernel, wide = (
                i + 1,
                DIMS[i - 1] if i else 3,
                3 if i else 7,
                (8, 8, 4, 4)[i],
            )
            patch = f"backbone.extra_downsample_layers.{i}"
            self.layer(f"{patch}.proj.module", width, before, kernel, kernel)
            self.layer(f"{patch}.norm.ln_0", width)
            self.layer(f"backbone.extra_norm{n}", width)
            for j in range(DEPTHS[i]):
                name = f"backbone.extra_block{n}.{j}"
                self[f"{name}.layer_scale_1"] = self[f"{name}.layer_scale_2"] = (width,)
                self.batch_norm(f"{name}.norm1", width)
                self.batch_norm(f"{name}.norm2", width)
                self.layer(f"{name}.attn.conv0", width, 1, 7, 7)
                self.layer(f"{name}.attn.conv4", width, width, 1, 1)
                self.layer(f"{name}.mlp.fc1", wide * width, width, 1, 1)
                self.layer(f"{name}.mlp.dwconv.dwconv", wide * width, 1, 3, 3)
                self.layer(f"{name}.mlp.fc2", width, wide * width, 1, 1)
                self.layer(f"{name}.c_nets.0", 1, 1, 3, bias=False)

    def exchange(self, name, width):
        self.layer(f"{name}.attn.relation_judger.0.fc1", width, 2 * width)
        self.layer(f"{name}.attn.relation_judger.0.fc2", width, width)
        for one in ("cross_attn_0_to_1", "cross_attn_1_to_0"):
            self[f"{name}.attn.{one}.in_proj_weight"] = (3 * width, width)
            self[f"{name}.attn.{one}.in_proj_bias"] = (3 * width,)
            self.layer(f"{name}.attn.{one}.out_proj", width, width)
        for noise in ("k_noise", "v_noise"):
            self[f"{name}.attn.{noise}.weight"] = (2, width)

    def adapters(self, *names):
        def add(name, width):
            for one in names:
                self.layer(f"{name}.{one}.adapter_down", 8, width)
                self.layer(f"{name}.{one}.adapter_mid", 8, 8)
                self.layer(f"{name}.{one}.adapter_up", width, 8)

        return add

    def feature_cross(self):
        for i, width in enumerate(DIMS):
            inner, cross = max(1, width // 16), "backbone.feature_cross"
            self.layer(f"{cross}.liner_fusion_layers.{i}", width, 2 * width)
            self.layer(f"{cross}.channel_attns.{i}.fc.0", inner, width, bias=False)
            self.layer(f"{cross}.channel_attns.{i}.fc.2", width, inner, bias=False)
            for one in ("fc1", "fc2"):
                self.layer(f"{cross}.mix_ffn.{i}.{one}", width, width)
            for one in ("pwconv1", "pwconv2"):
                self.layer(f"{cross}.mix_ffn.{i}.{one}.pwconv", width, width, 1, 1)
                self.batch_norm(f"{cross}.mix_ffn.{i}.{one}.bn", width)
            for k in (3, 5, 7):
                self.layer(f"{cross}.mix_ffn.{i}.dwconv{k}.dwconv", width, 1, k, k)


def shapes_of(name, branch=""):
    shapes = Shapes()
    if name == "cmx":
        shapes.encoder("backbone.")
        shapes.encoder("backbone.extra_")
        shapes.dual_fusion()
        shapes.head(conv="linear_fuse.0", norm="linear_fuse.1", bias=1)
    elif name == "cmnext":
        shapes.encoder("backbone.")
        shapes.pooling_encoder()
        shapes.dual_fusion()
        shapes.head()
    elif name == "geminifusion":
        body, head = ("backbone.", "decode_head.") if branch else ("encoder.", "decoder.")
        shapes.encoder(body, ".module", True, shapes.exchange)
        shapes.head(head)
        shapes["alpha"] = (2,)
    else:
        names = {
            "": ("adap_t_att12", "adap_t_mlp12"),
            "shared": ("adap_t", "adap2_t"),
            "two": ("adap_t_att12", "adap_t_mlp12", "adap_t_att21", "adap_t_mlp21"),
        }[branch]
        shapes.encoder("backbone.", block=shapes.adapters(*names))
        shapes.feature_cross()
        shapes.head()
    return shapes


def random_weights(name, branch=""):
    return filled(shapes_of(name, branch), NAMES.index(name))


def filled(shapes, seed):
    """Random float64 weights of these shapes, scaled so that activations stay near one."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for key, shape in shapes.items():
        value = torch.randn(shape, dtype=torch.float64, generator=generator)
        if key.endswith("running_var"):
            value = value.abs() + 0.5
        elif key.endswith("num_batches_tracked"):
            value = torch.tensor(0)
        elif len(shape) > 1:
            value = value / math.sqrt(math.prod(shape[1:]))
        weights[key] = value
    return weights
