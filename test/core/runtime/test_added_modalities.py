"""Modalities that a contract adds to the five: read, answered, refused by name."""

import json
import pickle
from copy import deepcopy

import numpy as np
import pytest
import torch
from small_models import LIDAR, sample, small_contract, with_added

from segrgbx_core.base.errors import CheckpointError, ConfigError, EncodingError
from segrgbx_core.base.modality import MODALITIES, Modality
from segrgbx_core.base.samples import RgbxSample, XForm
from segrgbx_core.model.lora import adapter_tensors
from segrgbx_core.runtime.batch import make_batch
from segrgbx_core.runtime.checkpoint import (
    FORMAT,
    KEY,
    Contract,
    contract_header,
    load_checkpoint,
    parse_contract,
    plain_contract,
    random_weights,
    read_contract,
    save_checkpoint,
)
from segrgbx_core.runtime.segmenter import InferenceConfig, Segmenter
from segrgbx_core.sensors import (
    AddedModality,
    EncodingConfig,
    encode,
    resamples_linearly,
    slot_of,
    x_content,
)

CPU = InferenceConfig(device="cpu")
NIR = AddedModality(high=255.0)
RADAR = AddedModality(channels=3, high=65535.0)
LIDAR_NAME = Modality("lidar")


def lidar_sample(seed=0, name="lidar"):
    rng = np.random.default_rng(seed)
    metres = rng.uniform(0, 60, (40, 50)).astype(np.float32)
    metres[::2] = 0
    return RgbxSample(sample(seed=seed).rgb, metres, Modality(name))


def grown(base, contract, seed=7):
    """Weights under a larger contract that hold those of a smaller one."""
    loaded = random_weights(contract, seed)
    for old, new in ((base.model, loaded.model), (base.ma_clip, loaded.ma_clip)):
        weights = new.state_dict()
        for name, tensor in old.state_dict().items():
            if tensor.shape == weights[name].shape:
                weights[name] = tensor.clone()
            else:
                weights[name][: len(tensor)] = tensor
        new.load_state_dict(weights)
    return loaded


def logits_of(loaded, samples, merge_for=None):
    segmenter = Segmenter(deepcopy(loaded), CPU, merge_for=merge_for)
    images = [encode(one, loaded.contract.encoding) for one in samples]
    modalities = [one.modality for one in samples]
    encoding = loaded.contract.encoding
    rgb = [one.rgb for one in samples]
    batch = make_batch(rgb, images, modalities, segmenter.input, encoding)
    with torch.inference_mode():
        return segmenter.engine.coarse_logits(batch, segmenter.engine.encode_scene(batch))


@pytest.fixture
def three(tmp_path):
    """A checkpoint with three modalities beyond the five."""
    contract = with_added(small_contract(), lidar=LIDAR, nir=NIR, radar=RADAR)
    loaded = random_weights(contract)
    save_checkpoint(tmp_path / "three.safetensors", loaded.model, loaded.ma_clip, contract)
    return tmp_path / "three.safetensors"


def test_a_name_is_one_object_and_a_plain_string_outside():
    assert Modality("thermal") is Modality.THERMAL
    assert Modality("lidar") is LIDAR_NAME
    assert pickle.loads(pickle.dumps(LIDAR_NAME)) is LIDAR_NAME
    assert type(LIDAR_NAME.value) is type(str(LIDAR_NAME)) is str
    assert json.dumps([Modality.DEPTH, LIDAR_NAME]) == '["depth", "lidar"]'
    assert LIDAR_NAME.is_added
    assert not any(one.is_added for one in MODALITIES)
    assert [one.index for one in MODALITIES] == [0, 1, 2, 3, 4]
    assert LIDAR_NAME.facts.title == "Lidar"


@pytest.mark.parametrize("name", ["", "Lidar", "li dar", "1d", "a/b", "x" * 33, None, 3])
def test_what_is_no_part_of_a_topic_is_no_name(name):
    with pytest.raises(ValueError, match="is no name of a modality"):
        Modality(name)


def test_a_contract_without_added_ones_reads_and_writes_as_before():
    plain = plain_contract(small_contract())
    assert plain["format"] == 1
    assert "added" not in plain["encoding"]
    assert plain["modalities"] == [str(one) for one in MODALITIES]
    assert parse_contract(plain, "file") == small_contract()


def test_a_contract_with_added_ones_goes_through_a_file(three):
    contract = read_contract(three)
    assert contract.format == FORMAT == 2
    assert contract.modalities == (*MODALITIES, "lidar", "nir", "radar")
    assert [contract.slot_of(one) for one in contract.modalities] == list(range(8))
    assert contract.encoding.added["lidar"] == LIDAR
    header = json.loads(contract_header(contract)[KEY])
    assert parse_contract(header, "file") == contract
    loaded = load_checkpoint(three)
    assert loaded.ma_clip.modalities == contract.modalities
    assert loaded.model.prompts[0].aligned.shape[0] == 1 + 8
    assert adapter_tensors(loaded.ma_clip.tower, Modality("radar"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modalities": ["thermal", "sonar"]}, "modality 'sonar' is not one of event"),
        ({"format": 1}, "encoding.added needs format 2, not 1"),
        ({"temperatures": {"sonar": 2.0}}, "modality 'sonar' is not one of event"),
        ({"encoding": {"added": {"lidar": {"slot": 6}}}}, r"slots \[6\] must be 5"),
        ({"encoding": {"added": {"depth": {}}}}, "'depth' is one of the paper's five"),
        ({"encoding": {"added": {"lidar": {"encoder": "sonar"}}}}, "added.lidar.encoder"),
        ({"encoding": {"added": {"lidar": {"channels": 2}}}}, "must be 1 or 3"),
        ({"encoding": {"added": {"lidar": {"low": 5.0, "high": 5.0}}}}, "must be below high"),
        ({"encoding": {"added": {"lidar": {"curve": [[0, 0, 0]]}}}}, "must be 2 to 256 rows"),
    ],
)
def test_a_contract_that_contradicts_itself_is_refused(change, message):
    plain = plain_contract(with_added(small_contract(), lidar=LIDAR))
    plain["encoding"] |= change.pop("encoding", {})
    with pytest.raises(CheckpointError, match=message):
        parse_contract({**plain, **change}, "file")


def test_the_five_answer_bit_equally_beside_added_ones():
    base = random_weights(small_contract())
    one = grown(base, with_added(small_contract(), lidar=LIDAR))
    three = grown(base, with_added(small_contract(), lidar=LIDAR, nir=NIR, radar=RADAR))
    samples = [sample(), sample(Modality.DEPTH, seed=1), sample(Modality.LIGHT_FIELD, seed=2)]
    expected = logits_of(base, samples)
    assert not torch.equal(expected[0], logits_of(base, [sample(Modality.DEPTH)])[0])
    assert torch.equal(logits_of(one, samples), expected)
    assert torch.equal(logits_of(three, samples), expected)


@pytest.mark.parametrize("modality", MODALITIES)
def test_the_five_answer_bit_equally_with_their_adapter_merged(modality):
    pixels = np.random.default_rng(1).integers(0, 255, (40, 50, 3)).astype(np.uint8)
    drawn = RgbxSample(sample().rgb, pixels, modality, x_form=XForm.IMAGE)
    base = random_weights(small_contract())
    larger = grown(base, with_added(small_contract(), lidar=LIDAR, nir=NIR))
    expected = logits_of(base, [drawn], modality)
    assert torch.equal(logits_of(larger, [drawn], modality), expected)


def test_an_added_one_has_its_own_adapter_and_prompts():
    loaded = random_weights(with_added(small_contract(), lidar=LIDAR, nir=NIR))
    as_nir = lidar_sample(name="nir")
    mixed = logits_of(loaded, [sample(), lidar_sample(), as_nir])
    assert not torch.allclose(mixed[1], mixed[2])
    alone = logits_of(loaded, [lidar_sample()], LIDAR_NAME)
    assert torch.allclose(mixed[1], alone[0], atol=1e-4)
    with torch.no_grad():
        for name, weight in loaded.ma_clip.named_parameters():
            if name.endswith("lora_added_up.0"):
                weight.zero_()
    changed = logits_of(loaded, [sample(), lidar_sample(), as_nir])
    assert torch.equal(changed[0], mixed[0])
    assert torch.equal(changed[2], mixed[2])
    assert not torch.equal(changed[1], mixed[1])


def test_a_modality_that_the_checkpoint_lacks_is_refused_by_name(three):
    segmenter = Segmenter.from_checkpoint(three, CPU)
    with pytest.raises(CheckpointError, match=r"asked for lidarr \(did you mean 'lidar'\?\)"):
        segmenter.require(Modality("lidarr"))
    base = random_weights(small_contract())
    with pytest.raises(CheckpointError, match=r"trained for event, .*; asked for lidar$"):
        Segmenter(base, CPU).predict([lidar_sample()])
    with pytest.raises(EncodingError, match="modality 'lidar' is none of event, thermal"):
        encode(lidar_sample(), EncodingConfig())
    with pytest.raises(EncodingError, match="modality 'lidar' is none of"):
        slot_of(LIDAR_NAME)
    merged = Segmenter.from_checkpoint(three, CPU, merge_for=LIDAR_NAME)
    assert merged.predict([lidar_sample()])[0].modality is LIDAR_NAME
    with pytest.raises(ConfigError, match="the LoRA of lidar is merged, thermal is not served"):
        merged.predict([sample()])


def test_predictions_of_a_mixed_batch(three):
    segmenter = Segmenter.from_checkpoint(three, CPU)
    answers = segmenter.predict([sample(), lidar_sample()])
    assert [answer.modality for answer in answers] == ["thermal", "lidar"]
    assert answers[1].labels.shape == lidar_sample().rgb.shape[:2]
    segmenter.warm_up(modalities=[LIDAR_NAME])


def encoded(x, one, form=XForm.RAW):
    encoding = EncodingConfig(added={LIDAR_NAME: one})
    rgb = np.zeros((4, 4, 3), np.uint8)
    return encode(RgbxSample(rgb, np.asarray(x), LIDAR_NAME, x_form=form), encoding)


def test_a_picture_is_drawn_by_its_range():
    metres = np.array([[0, 10, 25], [50, 80, np.nan]], np.float32)
    grey = encoded(metres, LIDAR)
    assert grey.dtype == np.float32
    np.testing.assert_allclose(grey[..., 0], [[0, 0.2, 0.5], [1, 1, 0]])
    assert np.array_equal(grey[..., 0], grey[..., 2])
    millimetres = np.array([[0, 10_000, 25_000]], np.uint16)
    in_mm = LIDAR.model_copy(update={"count": 0.001})
    np.testing.assert_allclose(encoded(millimetres, in_mm)[..., 1], [[0, 0.2, 0.5]], atol=1e-6)
    colours = np.array([[[0, 127.5, 255]]], np.float32)
    drawn = encoded(colours, NIR.model_copy(update={"channels": 3}))
    np.testing.assert_allclose(drawn, [[[0, 0.5, 1]]])


def test_a_curve_colours_what_was_measured_and_nothing_else():
    curve = ((1.0, 0.0, 0.2), (0.5, 0.5, 0.2), (0.0, 1.0, 0.2))
    one = LIDAR.model_copy(update={"curve": curve})
    drawn = encoded(np.array([[0, 12.5, 50]], np.float32), one)
    np.testing.assert_allclose(drawn[0], [[0, 0, 0], [0.75, 0.25, 0.2], [0, 1, 0.2]], atol=1e-6)
    black = np.zeros((4, 4, 3), np.uint8)
    assert not encoded(black, one, XForm.IMAGE).any(), "missing X stays black"
    same = np.random.default_rng(0).uniform(0, 50, (5, 6)).astype(np.float32)
    plain = LIDAR.model_copy(update={"curve": tuple((v,) * 3 for v in (0.0, 0.5, 1.0))})
    np.testing.assert_allclose(encoded(same, plain), encoded(same, LIDAR), atol=1e-6)


def test_an_added_one_may_use_an_encoder_of_the_five():
    one = AddedModality(encoder="thermal")
    x = sample().x
    expected = encode(sample())
    assert np.array_equal(encoded(x, one), expected)


@pytest.mark.parametrize(
    "x", [np.zeros((3, 4, 2), np.float32), np.zeros((3, 4), np.int64), np.zeros((0, 4), np.uint8)]
)
def test_what_is_no_such_picture_is_refused(x):
    with pytest.raises(EncodingError, match="lidar x: "):
        encoded(x, LIDAR)


def test_resampling_goes_by_the_definition():
    encoding = EncodingConfig(added={LIDAR_NAME: LIDAR})
    assert not resamples_linearly(LIDAR_NAME, encoding)
    assert resamples_linearly(Modality.DEPTH, encoding)


@pytest.mark.parametrize(
    ("metres", "problem", "is_empty"),
    [
        (np.linspace(1, 49, 400), "", False),
        (np.zeros(400), "no measurement", True),
        (np.full(400, np.nan), "no measurement", True),
        (np.full(400, 70.0), "beyond its range", True),
        (np.r_[np.full(390, 900.0), np.full(10, 3.0)], "lie within \\[0, 50\\] m", False),
        (np.full(400, 7.0), "one value all over, 7", True),
    ],
)
def test_content_of_a_picture(metres, problem, is_empty):
    encoding = EncodingConfig(added={LIDAR_NAME: LIDAR})
    x = metres.reshape(20, 20).astype(np.float32)
    one = RgbxSample(np.zeros((4, 4, 3), np.uint8), x, LIDAR_NAME)
    content = x_content(one, encoding)
    assert content.is_empty is is_empty
    assert content.unit == "m"
    assert problem.replace("\\", "") in content.problem
    assert bool(content.problem) is bool(problem)


def test_a_contract_names_what_it_serves(three):
    assert isinstance(read_contract(three), Contract)
    with pytest.raises(CheckpointError, match=r"for event, .*, lidar, nir, radar; asked"):
        read_contract(three).require(Modality("sonar"), "here")
