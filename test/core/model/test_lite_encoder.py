"""EfficientNet-lite0 as an encoder: public weights, a start that changes nothing, folding."""

import copy

import pytest
import timm
import torch
from torch import nn

from segrgbx_core.base.config import from_mapping, to_plain
from segrgbx_core.base.errors import CheckpointError, ConfigError
from segrgbx_core.model import PRESETS, ModelConfig, build_model
from segrgbx_core.model.backbone import LiteEncoder, LiteStage
from segrgbx_core.model.weights import load_encoder_weights

E = 16


def published_names():
    """The names of the published file in its order."""

    def norm(name):
        kinds = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        return [f"{name}.{kind}" for kind in kinds]

    names = ["_conv_stem.weight", *norm("_bn0")]
    for block in range(16):
        if block:
            names += [f"_blocks.{block}._expand_conv.weight", *norm(f"_blocks.{block}._bn0")]
        for conv, number in (("_depthwise_conv", 1), ("_project_conv", 2)):
            names += [f"_blocks.{block}.{conv}.weight", *norm(f"_blocks.{block}._bn{number}")]
    return [*names, "_conv_head.weight", *norm("_bn1"), "_fc.weight", "_fc.bias"]


@pytest.fixture(scope="module")
def public():
    """timm's network with random weights and statistics, and the same under published names."""
    torch.manual_seed(0)
    network = timm.create_model("tf_efficientnet_lite0").eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    state = network.state_dict()
    names = published_names()
    assert len(names) == len(state) == 296
    return network, dict(zip(names, state.values(), strict=True))


def build(state=None, **changes):
    torch.manual_seed(0)
    preset = PRESETS["lite0"]
    backbone = preset.backbone.model_copy(update=changes)
    model = build_model(preset.model_copy(update={"backbone": backbone}), 5, E)
    if state is not None:
        load_encoder_weights(model.backbone, state)
    return model


def inputs(batch=2, height=96, width=128):
    torch.manual_seed(1)
    images, embeddings = torch.rand(2, batch, 3, height, width), torch.randn(2, batch, E)
    return *images, *embeddings, torch.arange(batch)


@pytest.mark.parametrize("size", [(96, 128), (97, 131), (240, 320)])
def test_maps_are_those_of_timm_and_the_blocks_change_nothing_at_first(public, size):
    network, state = public
    image = torch.rand(1, 3, *size)
    features = {}
    places = {"1.1": 0, "2.1": 1, "4.2": 2, "5.3": 3}
    for name, place in places.items():
        block = network.get_submodule(f"blocks.{name}")
        block.register_forward_hook(lambda *a, place=place: features.update({place: a[-1]}))
    encoder = build(state).eval().backbone
    with torch.no_grad():
        network(image)
        ours = image
        for place, stage in enumerate(encoder.stages):
            convolved = stage.convs(stage.stem(ours))
            torch.testing.assert_close(convolved, features[place])
            ours = stage(ours)
            assert torch.equal(ours, stage.neck(convolved))


def test_weights_of_another_network_are_refused_and_change_nothing(public):
    _, state = public
    model = build()
    before = copy.deepcopy(model.backbone.state_dict())
    wrong = {**state, "_blocks.3._project_conv.weight": torch.zeros(1)}
    for broken, text in ((wrong, "_blocks.3"), ({"a": torch.zeros(1)}, "_conv_stem")):
        with pytest.raises(CheckpointError, match=text):
            load_encoder_weights(model.backbone, broken)
    with pytest.raises(CheckpointError, match=r"_extra.*no place"):
        load_encoder_weights(model.backbone, {**state, "_extra": torch.zeros(1)})
    after = model.backbone.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_prompts_learn_and_reach_every_stage(public):
    model = build(public[1]).train()
    batch = inputs()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(8):
        loss = nn.functional.cross_entropy(model(*batch), torch.ones(2, 96, 128, dtype=torch.long))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    for prompts in model.prompts:
        assert prompts.aligned.grad.abs().max() > 0
        assert prompts.control[0].weight.grad.abs().max() > 0


@pytest.mark.parametrize("frozen", [True, False])
def test_statistics_stay_where_they_are_frozen(public, frozen):
    model = build(public[1], frozen_statistics=frozen).train()
    norm = model.backbone.stages[2].convs[1].depthwise.norm
    before = norm.running_mean.clone()
    model(*inputs())
    assert torch.equal(norm.running_mean, before) is frozen
    assert model.head.norm.training


def test_folded_network_answers_the_same(public):
    model = build(public[1]).double().eval()
    batch = [one.double() if one.is_floating_point() else one for one in inputs(2, 97, 131)]
    with torch.no_grad():
        before = model(*batch)
        model.fold()
        torch.testing.assert_close(model(*batch), before, rtol=1e-8, atol=1e-8)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.backbone.modules())


def test_rgb_is_normalised_as_the_weights_were_trained():
    white = torch.ones(1, 3, 32, 32)
    model = build()
    assert torch.equal(model.normalised_rgb(white, white), white)
    assert torch.equal(model.normalised_rgb(0 * white, white), -white)


def test_config_is_told_apart_by_its_name_and_keeps_the_published_widths():
    preset = PRESETS["lite0"]
    plain = to_plain(preset)
    assert from_mapping(ModelConfig, plain) == preset
    assert isinstance(build().backbone, LiteEncoder)
    assert all(isinstance(stage, LiteStage) for stage in build().backbone.stages)
    plain["backbone"]["embed_dims"] = [32, 40, 112, 96]
    with pytest.raises(ConfigError, match="24, 40, 112"):
        from_mapping(ModelConfig, plain)
    plain["backbone"]["encoder"] = "resnet"
    with pytest.raises(ConfigError, match="efficientnet_lite0"):
        from_mapping(ModelConfig, plain)
