import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from segrgbx_core.base.errors import (
    CheckpointError,
    ConfigError,
    EncodingError,
    ModelOutputError,
)
from segrgbx_core.base.modality import MODALITIES, Modality
from segrgbx_core.base.samples import Events, RgbxSample, XForm
from segrgbx_core.labels.label_space import VOID
from segrgbx_core.runtime.batch import (
    RGB_BORDER,
    InputConfig,
    ResizeMode,
    fit_to_model,
    with_border,
)
from segrgbx_core.runtime.checkpoint import (
    default_contract,
    load_checkpoint,
    random_checkpoint,
    random_weights,
)
from segrgbx_core.runtime.segmenter import InferenceConfig, Segmenter
from segrgbx_core.sensors import EncodingConfig, PolarizationEncoding

CPU = InferenceConfig(device="cpu")
CONTRACT_INPUT = InputConfig(height=64, width=96)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("inference") / "tiny.safetensors"
    random_checkpoint(path, input=CONTRACT_INPUT)
    return path


@pytest.fixture(scope="module")
def segmenter(checkpoint):
    return Segmenter.from_checkpoint(checkpoint, CPU)


def sample(modality=Modality.THERMAL, height=72, width=96, seed=0, stamp_ns=10**9):
    rng = np.random.default_rng(seed)
    small = (height // 2, width // 2)
    if modality is Modality.EVENT:
        n = 500
        x = Events(
            x=rng.integers(0, 40, n).astype(np.uint16),
            y=rng.integers(0, 30, n).astype(np.uint16),
            t_ns=np.sort(stamp_ns - rng.integers(0, 10**7, n)),
            p=rng.integers(0, 2, n).astype(np.uint8),
            width=40,
            height=30,
        )
    else:
        x = {
            Modality.THERMAL: lambda: rng.integers(28000, 32000, small).astype(np.uint16),
            Modality.DEPTH: lambda: rng.integers(500, 20000, small).astype(np.uint16),
            Modality.POLARIZATION: lambda: rng.integers(0, 255, small).astype(np.uint8),
            Modality.LIGHT_FIELD: lambda: rng.integers(0, 255, (*small, 3)).astype(np.uint8),
        }[modality]()
    rgb = rng.integers(0, 255, (height, width, 3)).astype(np.uint8)
    return RgbxSample(rgb, x, modality, stamp_ns, "camera")


def everything():
    sizes = [(72, 96), (64, 64), (100, 50), (33, 120), (96, 96)]
    return [
        sample(modality, *size, seed=i)
        for i, (modality, size) in enumerate(zip(MODALITIES, sizes, strict=True))
    ]


def agreement(one, other):
    return (one.labels == other.labels).mean()


def test_one_batch_of_all_modalities_and_resolutions(segmenter):
    samples = everything()
    answers = segmenter.predict(samples)
    for given, answer in zip(samples, answers, strict=True):
        assert answer.labels.shape == answer.confidence.shape == given.rgb.shape[:2]
        assert answer.labels.dtype == answer.confidence.dtype == np.uint8
        assert answer.labels.max() < segmenter.label_space.num_classes
        assert answer.x_image.dtype == np.float32
        assert 0 <= answer.x_image.min() <= answer.x_image.max() <= 1
        assert (answer.modality, answer.stamp_ns, answer.frame_id) == (
            given.modality,
            given.stamp_ns,
            "camera",
        )
        assert {"encode", "input", "scene", "model", "decode"} <= answer.timings_ms.keys()


def test_a_sample_alone_and_within_a_batch_gets_the_same_labels(segmenter):
    samples = everything()
    together = segmenter.predict(samples)
    reversed_order = segmenter.predict(samples[::-1])[::-1]
    for i, given in enumerate(samples):
        alone = segmenter.predict([given])[0]
        assert agreement(alone, together[i]) > 0.999
        assert agreement(alone, reversed_order[i]) > 0.999
        gap = np.abs(alone.confidence.astype(int) - together[i].confidence)
        assert gap.max() <= 1


def test_the_same_call_gives_the_same_bits(checkpoint, segmenter):
    given = sample()
    first, second = segmenter.predict([given])[0], segmenter.predict([given])[0]
    other = Segmenter.from_checkpoint(checkpoint, CPU).predict([given])[0]
    for answer in (second, other):
        assert np.array_equal(first.labels, answer.labels)
        assert np.array_equal(first.confidence, answer.confidence)


def test_x_and_modality_matter(segmenter):
    a = sample(Modality.DEPTH)
    b = RgbxSample(a.rgb, a.x[::-1].copy(), Modality.DEPTH)
    c = RgbxSample(a.rgb, a.x, Modality.THERMAL)
    answers = segmenter.predict([a, b, c])
    assert not np.array_equal(answers[0].confidence, answers[1].confidence)
    assert not np.array_equal(answers[0].confidence, answers[2].confidence)


def test_rendered_pictures_go_through_the_other_door(segmenter):
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (60, 60, 3)).astype(np.uint8)
    rgb = rng.integers(0, 255, (48, 48, 3)).astype(np.uint8)
    given = RgbxSample(rgb, picture, Modality.EVENT, x_form=XForm.IMAGE)
    [answer] = segmenter.predict([given])
    np.testing.assert_allclose(answer.x_image, picture / 255, atol=1e-6)


def test_what_the_encoding_makes_of_x_decides_how_it_is_resized(tmp_path, monkeypatch):
    """The mean of two polarization angles beside the wrap would be the angle across."""
    encoding = EncodingConfig(polarization=PolarizationEncoding(representation="aolp"))
    random_checkpoint(tmp_path / "a.safetensors", input=CONTRACT_INPUT, encoding=encoding)
    one = Segmenter.from_checkpoint(tmp_path / "a.safetensors", CPU)
    batches = []
    logits = one.engine.coarse_logits

    def noted(batch, scene):
        batches.append(batch)
        return logits(batch, scene)

    monkeypatch.setattr(one.engine, "coarse_logits", noted)
    drawn = np.zeros((64, 64), np.uint8)
    drawn[:, ::2] = 250
    drawn = np.repeat(drawn[..., None], 3, axis=2)
    image = RgbxSample(
        np.zeros((64, 64, 3), np.uint8), drawn, Modality.POLARIZATION, x_form=XForm.IMAGE
    )
    one.predict([image])
    assert len(batches[0].x[:, 0].unique()) == 2


def test_nothing_in_nothing_out(segmenter):
    assert segmenter.predict([]) == []


def test_native_space_is_the_argmax_over_its_own_classes(checkpoint, segmenter):
    native = Segmenter.from_checkpoint(checkpoint, CPU, label_space="mfnet")
    space = native.label_space.native("mfnet")
    assert native.classes.space == "mfnet"
    assert native.classes.names == space.names
    assert native.classes.ids == range(len(space.names))
    given = sample()
    answer, unified = native.predict([given])[0], segmenter.predict([given])[0]
    assert answer.labels.max() < len(space.names)
    # Where the unified answer is one of the native classes, the native answer is that class.
    translated = segmenter.label_space.to_native(unified.labels, "mfnet")
    known = translated != VOID
    assert np.array_equal(answer.labels[known], translated[known])
    # Fewer rivals make the same class more probable.
    assert (answer.confidence[known].astype(int) - unified.confidence[known] >= -1).all()


def test_published_classes_of_the_unified_space(segmenter):
    assert segmenter.classes.space == "unified"
    assert segmenter.classes.names == segmenter.label_space.names
    assert segmenter.classes.hash == segmenter.label_space.hash
    assert segmenter.classes.unlabeled_id == VOID


def test_unknown_label_spaces_are_refused(checkpoint):
    with pytest.raises(ConfigError, match="did you mean 'mfnet'"):
        Segmenter.from_checkpoint(checkpoint, CPU, label_space="mfnett")


def test_uncertain_pixels_become_void(checkpoint, segmenter):
    given = sample()
    middle = float(np.median(segmenter.predict([given])[0].confidence)) / 255
    answer = Segmenter.from_checkpoint(checkpoint, CPU, min_confidence=middle).predict([given])[0]
    void = answer.labels == VOID
    assert void.any()
    assert not void.all()
    assert answer.confidence[void].max() <= answer.confidence[~void].min()
    [asked] = segmenter.predict([given], min_confidence=middle)
    assert np.array_equal(asked.labels, answer.labels)
    with pytest.raises(ConfigError, match="outside"):
        Segmenter.from_checkpoint(checkpoint, CPU, min_confidence=2.0)
    with pytest.raises(ConfigError, match="outside"):
        segmenter.predict([given], min_confidence=-0.1)


def test_untrained_modalities_are_refused(tmp_path):
    random_checkpoint(tmp_path / "t.safetensors", modalities=(Modality.THERMAL,))
    segmenter = Segmenter.from_checkpoint(tmp_path / "t.safetensors", CPU)
    with pytest.raises(CheckpointError, match="trained for thermal; asked for depth"):
        segmenter.predict([sample(Modality.THERMAL), sample(Modality.DEPTH)])
    with pytest.raises(CheckpointError, match="asked for depth"):
        Segmenter.from_checkpoint(tmp_path / "t.safetensors", CPU, merge_for=Modality.DEPTH)


def test_merged_lora_answers_alike_and_serves_one_modality(checkpoint, segmenter):
    merged = Segmenter.from_checkpoint(checkpoint, CPU, merge_for=Modality.THERMAL)
    given = sample()
    one, other = merged.predict([given])[0], segmenter.predict([given])[0]
    assert agreement(one, other) > 0.999
    with pytest.raises(ConfigError, match="LoRA of thermal is merged"):
        merged.predict([sample(Modality.DEPTH)])


def test_bad_x_is_refused_and_the_segmenter_goes_on(segmenter):
    given = sample()
    before = segmenter.predict([given])[0]
    broken = RgbxSample(given.rgb, np.zeros((3, 4, 5, 6)), Modality.THERMAL)
    with pytest.raises(EncodingError):
        segmenter.predict([given, broken])
    assert np.array_equal(segmenter.predict([given])[0].labels, before.labels)


def test_images_of_a_million_columns_are_refused(segmenter):
    given = sample()
    wide = np.zeros((1, 1 << 20, 3), np.uint8)
    with pytest.raises(EncodingError, match=r"rgb: size 1048576x1 px; taken are sides of 1 to"):
        segmenter.predict([RgbxSample(wide, given.x, Modality.THERMAL)])


def test_a_frame_without_finite_logits_is_an_error_and_the_next_one_is_answered(checkpoint):
    segmenter = Segmenter.from_checkpoint(checkpoint, CPU)
    before = segmenter.predict([sample()])[0]
    head = segmenter.checkpoint.model.head
    handle = head.register_forward_hook(lambda _module, _inputs, logits: logits * torch.inf)
    with pytest.raises(ModelOutputError, match="the frame has no finite logit"):
        segmenter.predict([sample()])
    handle.remove()
    assert np.array_equal(segmenter.predict([sample()])[0].labels, before.labels)


@pytest.mark.parametrize(
    ("readers", "warning"),
    [
        (["synthetic_street"] * 2, "trained on rendered streets only"),
        (["synthetic_street", "synthetic_room"], "trained on rendered scenes only"),
        (["synthetic_street", "mfnet"], ""),
        ([], ""),
    ],
)
def test_weights_from_rendered_images_say_so(readers, warning):
    run = {"data": [{"reader": name} for name in readers]}
    assert default_contract("tiny", provenance={"run": run}).warning == warning


@pytest.mark.parametrize("run", [None, 1, [], {"data": 1}, {"data": [1]}, {"data": "text"}])
def test_any_provenance_is_taken(run, segmenter):
    assert default_contract("tiny", provenance={"run": run}).warning == ""
    assert segmenter.warning == "untrained weights: labels mean nothing"


def test_a_failing_forward_leaves_it_usable(checkpoint):
    segmenter = Segmenter.from_checkpoint(checkpoint, CPU)
    given = sample()
    before = segmenter.predict([given])[0]

    def fail(*_):
        raise RuntimeError("CUDA out of memory")

    for module in (segmenter.checkpoint.ma_clip.tower.blocks[0], segmenter.checkpoint.model.head):
        handle = module.register_forward_hook(fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            segmenter.predict([given])
        handle.remove()
    assert np.array_equal(segmenter.predict([given])[0].confidence, before.confidence)


def test_input_size_and_resize_mode_can_differ_from_training(checkpoint):
    config = InferenceConfig(device="cpu", input_height=96, resize_mode="letterbox")
    segmenter = Segmenter.from_checkpoint(checkpoint, config)
    expected = InputConfig(height=96, width=96, resize_mode=ResizeMode.LETTERBOX)
    assert segmenter.input == expected
    [answer] = segmenter.predict([sample(height=40, width=100)])
    assert answer.labels.shape == (40, 100)


def test_bf16_and_memory_layout_change_little(checkpoint, segmenter):
    given = sample()
    exact = segmenter.predict([given])[0]
    plain = InferenceConfig(device="cpu", channels_last=False)
    assert (
        agreement(exact, Segmenter.from_checkpoint(checkpoint, plain).predict([given])[0]) > 0.999
    )
    rough = Segmenter.from_checkpoint(checkpoint, InferenceConfig(device="cpu", precision="bf16"))
    assert rough.precision == "bf16"
    answer = rough.predict([given])[0]
    # Random weights leave many near ties, so labels say little: compare how sure the model is.
    gap = np.abs(answer.confidence.astype(int) - exact.confidence)
    assert gap.mean() < 8


def test_warm_up_changes_nothing(segmenter):
    given = sample()
    before = segmenter.predict([given])[0]
    segmenter.warm_up((72, 96), [Modality.THERMAL, Modality.EVENT], batch_sizes=(1, 2))
    segmenter.warm_up()
    assert np.array_equal(segmenter.predict([given])[0].labels, before.labels)


def test_weights_stay_as_loaded(checkpoint):
    loaded = load_checkpoint(checkpoint)
    before = copy.deepcopy(loaded.ma_clip.state_dict()), copy.deepcopy(loaded.model.state_dict())
    Segmenter(loaded, CPU).predict(everything())
    for state, module in zip(before, (loaded.ma_clip, loaded.model), strict=True):
        after = module.state_dict()  # the head is folded, everything else is as it was
        kept = [name for name in state if not name.startswith("head.")]
        assert all(torch.equal(state[name], after[name]) for name in kept)


def test_random_weights_need_no_file():
    segmenter = Segmenter(random_weights(default_contract("tiny")), CPU)
    assert segmenter.contract.is_random
    assert segmenter.checkpoint.hash == ""
    assert segmenter.predict([sample()])[0].labels.shape == (72, 96)


def test_device_facts(segmenter):
    assert segmenter.device_name == "cpu"
    assert segmenter.memory > 1e6


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("precision", "fp61", "did you mean 'fp16'"),
        ("resize_mode", "crop", "is not a resize mode"),
        ("device", "gpu", "is not one of"),
        ("input_height", 16, "smaller than 32"),
    ],
)
def test_wrong_options_are_refused(option, value, message):
    with pytest.raises(ValueError, match=message):
        InferenceConfig(**{option: value})


@pytest.mark.gpu
def test_gpu_answers_like_the_cpu(checkpoint, segmenter):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    samples = everything()
    exact = segmenter.predict(samples)
    gpu = Segmenter.from_checkpoint(checkpoint, InferenceConfig(device="cuda", precision="fp32"))
    for one, other in zip(exact, gpu.predict(samples), strict=True):
        assert agreement(one, other) > 0.98
    auto = Segmenter.from_checkpoint(checkpoint, InferenceConfig(device="cuda"))
    auto.warm_up((72, 96), MODALITIES, batch_sizes=(1, 2))
    assert auto.precision in ("bf16", "fp16")
    for one, other in zip(exact, auto.predict(samples), strict=True):
        assert np.abs(one.confidence.astype(int) - other.confidence).mean() < 8


def test_samples_of_a_batch_may_ask_for_different_label_spaces(checkpoint, segmenter):
    given = [sample(seed=1), sample(seed=1)]
    mixed = segmenter.predict(given, label_spaces=["unified", "mfnet"])
    native = Segmenter.from_checkpoint(checkpoint, CPU, label_space="mfnet")
    [alone] = native.predict(given[:1])
    assert (mixed[1].labels != alone.labels).mean() < 1e-3, "batches round differently"
    assert mixed[0].labels.max() >= len(segmenter.classes_of("mfnet").names)
    assert segmenter.classes_of("mfnet") == native.classes
    with pytest.raises(ConfigError, match="did you mean 'mfnet'"):
        segmenter.predict(given, label_spaces=["mfnett", "mfnet"])


def test_answers_may_have_another_size(checkpoint):
    given = [sample(), sample(height=40, width=50)]

    def sizes(answer_size, config=CPU):
        one = Segmenter.from_checkpoint(checkpoint, config, answer_size=answer_size)
        return [answer.confidence.shape for answer in one.predict(given)]

    assert sizes("rgb") == [(72, 96), (40, 50)]
    assert sizes((30, 20)) == [(30, 20)] * 2
    assert sizes("model") == [(64, 96)] * 2
    boxed = InferenceConfig(device="cpu", resize_mode="letterbox")
    assert sizes("model", boxed) == [(64, 85), (64, 80)]


def with_input(checkpoint, **options):
    loaded = load_checkpoint(checkpoint)
    changed = loaded.contract.model_copy(update={"input": InputConfig(**options)})
    return Segmenter(replace(loaded, contract=changed), CPU)


def test_multiples_of_32_are_answered_alike_with_and_without_padding(checkpoint):
    padded, plain = (
        with_input(checkpoint, height=64, width=96, pad=pad).predict(everything())
        for pad in (True, False)
    )
    for one, other in zip(padded, plain, strict=True):
        np.testing.assert_array_equal(one.labels, other.labels)
        np.testing.assert_array_equal(one.confidence, other.confidence)


def test_padding_is_a_border_for_the_network_alone(checkpoint):
    """The answer is that part of the logits which covers the image; MA-CLIP sees no border."""
    segmenter = with_input(checkpoint, height=70, width=90)
    one = sample(Modality.LIGHT_FIELD, 70, 90)
    [answer] = segmenter.predict([one])
    loaded = load_checkpoint(checkpoint)
    rgb = torch.from_numpy(one.rgb).permute(2, 0, 1)[None].float() / 255
    x = torch.from_numpy(answer.x_image)
    x = torch.from_numpy(fit_to_model(x.numpy(), 70, 90)).permute(2, 0, 1)[None]
    index = torch.tensor([Modality.LIGHT_FIELD.index])
    with torch.no_grad():
        embeddings = loaded.ma_clip(rgb, x, index)
        pair = with_border(rgb, RGB_BORDER), with_border(x, (0, 0, 0))
        assert pair[0].shape == (1, 3, 96, 96)
        logits = loaded.model(*pair, *embeddings, index)[0, :, :70, :90]
    assert (answer.labels == logits.argmax(0).numpy()).mean() > 0.995


def test_files_from_before_padding_are_run_without_it(checkpoint, tmp_path):
    assert load_checkpoint(checkpoint).contract.input.pad
    with safe_open(checkpoint, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        contract = json.loads(file.metadata()["segrgbx"])
    del contract["input"]["pad"]
    old = tmp_path / "old.safetensors"
    save_file(tensors, old, {"segrgbx": json.dumps(contract)})
    assert not load_checkpoint(old).contract.input.pad
    assert not Segmenter.from_checkpoint(
        old, InferenceConfig(device="cpu", input_height=70)
    ).input.pad
