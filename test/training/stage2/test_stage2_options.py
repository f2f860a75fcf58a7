"""Options of stage 2 that a run must ask for: length, parts, statistics, pictures."""

import json
import shutil
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from stage2_case import RUN, assert_close, assert_same_run, one_step, read_case, state_of
from torch import nn

from segrgbx_core.base.errors import CheckpointError, ConfigError
from segrgbx_core.base.images import read_image
from segrgbx_core.model import ModelConfig
from segrgbx_core.model.backbone import MixTransformer
from segrgbx_core.model.baselines.geminifusion import GeminifusionConfig
from segrgbx_core.runtime.batch import RGB_BORDER, with_border
from segrgbx_core.runtime.segmenter import Segmenter
from training.data.embeddings import embed_frames
from training.engine.batch_norm import BatchNormMode, set_training
from training.engine.config import in_steps
from training.engine.loop import Loop
from training.stage1.config import read_ma_clip_run
from training.stage1.task import MaClipTask
from training.stage2 import task as stage2_task
from training.stage2.objective import SegmentationObjective
from training.stage2.task import SegmentationTask, train

pytestmark = pytest.mark.usefixtures("made_readers")


@pytest.fixture
def read(tmp_path):
    return partial(read_case, tmp_path)


def gradients(config):
    found, terms, _ = one_step(config)
    return found, terms


@pytest.mark.parametrize(
    "loss", [(), ("loss.class_weights=inverse_root", "loss.unified_ignore=[mfnet.bump]")]
)
def test_parts_of_a_step_give_the_gradient_of_the_whole(read, loss):
    """BatchNorm is frozen: its statistics are what parts cannot know of each other."""
    options = ("run.batch_norm=frozen", *loss)
    whole, terms = gradients(read(*options))
    for count in (2, 4):
        parts, own = gradients(read(*options, f"run.accumulate={count}", out=str(count)))
        assert_close(parts, whole)
        assert own.keys() == terms.keys()
        for name in terms:
            assert own[name] == pytest.approx(terms[name], rel=1e-5)
    assert max(value.abs().max() for value in whole.values()) > 1e-4


@pytest.mark.parametrize("points", [0, 400])
def test_training_pads_as_inference_does(read, points):
    """A crop that is no multiple of 32 is trained with the border that it has at run time."""
    size = ("augment.crop_height=40", "augment.crop_width=48", f"loss.points={points}")
    config = read(*size)
    assert config.input.pad
    task = SegmentationTask(config)
    batch = next(task.batches(0, 0, 1))
    assert batch["rgb"].shape[-2:] == (40, 48)
    seen = []
    task.model.head.register_forward_hook(lambda _, __, logits: seen.append(logits.shape[-2:]))
    torch.manual_seed(0)
    terms = task.objective(batch)
    assert seen == [(16, 16)]
    index, native = batch["modality"], batch["native"]
    embeddings = [batch[name] for name in ("rgb_embedding", "x_embedding")]
    pair = with_border(batch["rgb"], RGB_BORDER), with_border(batch["x"], (0, 0, 0))
    torch.manual_seed(0)
    logits = task.model(*pair, *embeddings, index)[..., :40, :48]
    if points == 0:
        expected = task.objective.loss(logits, batch["labels"], native)
        assert terms["loss"].item() == pytest.approx(expected["loss"].item(), rel=1e-5)
    plain = SegmentationTask(read(*size, "input.pad=false", out="plain"))
    assert plain.contract(0, {}).input.pad is False
    plain.objective(batch)


def test_parts_without_their_shares_would_not(read, monkeypatch):
    """The labelled share differs between samples, so the mean of means is another gradient."""
    whole, _ = gradients(read("run.batch_norm=frozen"))
    even = lambda self, batch: torch.ones(2, dtype=torch.float64)  # noqa: E731
    monkeypatch.setattr(SegmentationObjective, "weigh", even)
    parts, _ = gradients(read("run.batch_norm=frozen", "run.accumulate=2", out="b"))
    with pytest.raises(AssertionError):
        assert_close(parts, whole)


def test_an_accumulating_run_resumes_bit_equal(read, tmp_path):
    whole, broken = (read("run.accumulate=2", out=name) for name in "ab")
    train(whole)
    task = SegmentationTask(broken)
    step, taken = task.objective.forward, []

    def stops(batch):
        taken.append(1)
        if len(taken) == 6:  # in the middle of the third step
            raise KeyboardInterrupt
        return step(batch)

    task.objective.forward = stops
    with pytest.raises(KeyboardInterrupt):
        Loop(task, broken.run, broken.optimizer, broken).train()
    train(broken)
    assert state_of(tmp_path / "a")["progress"]["step"] == 4
    assert_same_run(tmp_path / "b", tmp_path / "a")


def test_batches_that_do_not_divide_are_refused(read):
    config = read("run.accumulate=3")
    task = SegmentationTask(config)
    with pytest.raises(ConfigError, match="4 does not divide into 3 equal parts"):
        Loop(task, config.run, config.optimizer, config)


def test_frozen_statistics_stay_and_their_scale_learns(read):
    config = read("run.batch_norm=frozen")
    task = SegmentationTask(config)
    norms = [m for m in task.model.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [(n.running_var.clone(), n.weight.detach().clone()) for n in norms]
    Loop(task, config.run, config.optimizer, config).train()
    assert len(norms) >= 5
    for norm, (variance, weight) in zip(norms, before, strict=True):
        assert torch.equal(norm.running_var, variance)
        assert not torch.equal(norm.weight, weight)
    set_training(task.model, BatchNormMode.OWN)
    assert all(norm.training for norm in norms)


def test_epochs_become_steps_and_stand_in_the_run_folder(read, tmp_path):
    config = read("run.epochs=1.5", "run.steps=77")
    assert in_steps(config.run, 10).steps == 4  # 15 draws, 4 at a time
    assert in_steps(read().run, 10).steps == 4  # as stated
    train(config)
    written = yaml.safe_load((tmp_path / "a/config.yaml").read_text())
    assert written["run"]["steps"] == 4
    assert written["run"]["epochs"] == 1.5
    lines = map(json.loads, (tmp_path / "a/metrics.jsonl").read_text().splitlines())
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]


def test_a_refused_start_leaves_the_options_of_the_run(read, tmp_path):
    train(read())
    with pytest.raises(CheckpointError, match="other options"):
        train(read("optimizer.learning_rate=0.5"))
    written = yaml.safe_load((tmp_path / "a/config.yaml").read_text())
    assert written["optimizer"]["learning_rate"] == 1e-4


def test_the_learning_rate_is_logged_and_the_folder_tells_the_whole_story(read, tmp_path):
    train(read("optimizer.warm_up=0.5"))
    lines = [json.loads(line) for line in (tmp_path / "a/metrics.jsonl").read_text().splitlines()]
    rates = [line["rate"] for line in lines if "loss" in line]
    assert rates[:3] == pytest.approx([5e-5, 1e-4, 1e-4])
    assert rates[3] < rates[2]
    (start,) = json.loads((tmp_path / "a/environment.json").read_text())
    assert {"command", "commit", "python", "devices", "libraries"} <= set(start)
    log = (tmp_path / "a/log.txt").read_text()
    assert "step 4/4" in log
    assert "left 0m00s" in log
    assert "scores: " in log


def test_pictures_lie_in_the_folder_and_in_tensorboard(read, tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train(read("run.pictures=2", "run.tensorboard=true", "run.score_every=2"))
    paths = sorted((tmp_path / "a/pictures").iterdir())
    assert [path.name for path in paths] == [
        "patches_thermal_0000002.png",
        "patches_thermal_0000004.png",
    ]
    assert read_image(paths[0]).std() > 20
    found = events.EventAccumulator(str(tmp_path / "a"), size_guidance={events.IMAGES: 0})
    folders = {path.parent for path in (tmp_path / "a").rglob("events.out*")}
    (folder,) = folders
    found = events.EventAccumulator(str(folder), size_guidance={events.IMAGES: 0})
    found.Reload()
    assert [image.step for image in found.Images("patches_thermal")] == [2, 4]
    rates = [scalar.value for scalar in found.Scalars("rate")]
    assert len(rates) == 4
    assert found.Scalars("patches_thermal")[0].value >= 0


def test_encoder_weights_fill_the_encoder_alone(read, tmp_path):
    config = read(f"encoder_weights={tmp_path / 'mit.pth'}")
    torch.manual_seed(3)
    encoder = MixTransformer(config.model.backbone)
    torch.save(official(encoder), tmp_path / "mit.pth")
    given = SegmentationTask(config).model.state_dict()
    plain = SegmentationTask(read(out="b")).model.state_dict()
    for name, value in encoder.state_dict().items():
        assert torch.equal(given[f"backbone.{name}"], value), name
    others = [name for name in plain if not name.startswith("backbone.")]
    assert all(torch.equal(given[name], plain[name]) for name in others)
    with pytest.raises(ConfigError, match="are both set"):
        SegmentationTask(read("encoder_weights=a", "init=b"))
    with pytest.raises(CheckpointError, match=r"no\.pth: does not exist"):
        SegmentationTask(read("encoder_weights=no.pth"))


def official(encoder):
    """The encoder's values under the names of the published files."""
    from segrgbx_core.model.weights import NAMINGS

    naming = NAMINGS[0]
    named = {}
    for name, value in encoder.state_dict().items():
        sources = naming.sources(name)
        for source, part in zip(sources, value.chunk(len(sources)), strict=True):
            named[source] = part.clone()
    return named


def test_stage_1_refuses_what_it_cannot_do(tmp_path):
    path = tmp_path / "run.yaml"
    plain = {"tower": "tiny", "captions": "c", "data": RUN["data"], "run": {"out": "a"}}
    path.write_text(yaml.safe_dump(plain))
    for changed in ("run.accumulate=2", "run.epochs=3", "run.batch_norm=frozen", "run.pictures=1"):
        with pytest.raises(ConfigError, match="is an option of stage 2"):
            read_ma_clip_run(path, [changed])
    assert ModelConfig().use_ma_clip


def test_embeddings_of_another_ma_clip_or_data_set_are_made_anew(read, monkeypatch):
    made = []

    def embed(*arguments):
        made.append(embed_frames(*arguments))
        return made[-1]

    monkeypatch.setattr(stage2_task, "embed_frames", embed)
    same = ["ma_clip.depth=1", "ma_clip.depth=1", "ma_clip.depth=2", "data.0.root=.."]
    found = [SegmentationTask(read(option)).dataset.sources[0].embeddings for option in same]
    assert len(made) == 3
    assert torch.equal(found[0], found[1])
    assert found[2].shape == found[0].shape
    assert not torch.equal(found[2], found[0])


def test_broken_embeddings_are_made_anew(read):
    first = SegmentationTask(read()).dataset.sources[0].embeddings
    [path] = Path(read().run.out).glob("embeddings_0*")
    path.write_bytes(path.read_bytes()[:100])
    assert torch.equal(SegmentationTask(read()).dataset.sources[0].embeddings, first)


class OtherProcess:
    """Stands for accelerate's state of a process that is not the first."""

    device = torch.device("meta")
    before = staticmethod(lambda: None)

    def __init__(self, cpu):
        assert cpu

    @contextmanager
    def main_process_first(self):
        self.before()
        yield


def test_the_first_process_embeds_for_all(read, monkeypatch):
    first = SegmentationTask(read(out="a")).dataset.sources[0].embeddings
    [path] = Path(read(out="a").run.out).glob("embeddings_0*")
    folder = Path(read(out="b").run.out)

    def before():
        folder.mkdir()
        shutil.copy(path, folder)

    monkeypatch.setattr(OtherProcess, "before", staticmethod(before))
    monkeypatch.setattr(stage2_task, "PartialState", OtherProcess)
    monkeypatch.setattr(stage2_task, "embed_frames", None)
    second = SegmentationTask(read(out="b")).dataset.sources[0].embeddings
    assert torch.equal(first, second)


def test_every_process_embeds_on_its_own_device(read, monkeypatch):
    devices = []

    def embed(frames, ma_clip, workers):
        devices.append(next(ma_clip.parameters()).device.type)
        return torch.zeros(len(frames), 4, 2, ma_clip.embed_dim)

    monkeypatch.setattr(stage2_task, "PartialState", OtherProcess)
    monkeypatch.setattr(stage2_task, "embed_frames", embed)
    SegmentationTask(read())
    assert devices == ["meta"]


@pytest.fixture
def three_threads(monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("three_threads")
def test_scores_and_pictures_leave_threads_alone(read, tmp_path):
    task = SegmentationTask(read("run.pictures=1"))
    task.save(tmp_path / "last.safetensors", 0, {})
    task.score(tmp_path / "last.safetensors")
    assert torch.get_num_threads() == 3
    task.draw(tmp_path / "last.safetensors")
    assert torch.get_num_threads() == 3


def test_scores_and_pictures_are_made_on_the_runs_device(read, monkeypatch, tmp_path):
    devices = []
    whole = Segmenter.from_checkpoint

    def spied(checkpoint, config=None, *arguments, **options):
        devices.append(config.device)
        return whole(checkpoint, config, *arguments, **options)

    monkeypatch.setattr(Segmenter, "from_checkpoint", spied)
    for name in ("cpu", "auto"):
        task = SegmentationTask(read("run.pictures=1", f"run.device={name}"))
        task.save(tmp_path / "last.safetensors", 0, {})
        task.score(tmp_path / "last.safetensors")
        task.draw(tmp_path / "last.safetensors")
    assert devices == ["cpu", "cpu", "auto", "auto"]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("run.device=cuda:1", "run.device: .*is not one of auto, cpu"),
        ("run.precision=fp32", "run.precision: .*is not one of no, bf16, fp16"),
        ("run.precision=[no]", "run.precision: .*is not one of no, bf16, fp16"),
    ],
)
def test_devices_and_precisions_are_known(read, option, message):
    with pytest.raises(ConfigError, match=message):
        read(option)


def test_precision_no_needs_no_quotes(read):
    assert read("run.precision=no").run.precision == "no"


def test_half_precision_needs_a_gpu(read):
    with pytest.raises(ConfigError, match=r"run.precision: fp16 needs a GPU"):
        train(read("run.precision=fp16"))


def test_a_letterbox_is_refused(read, tmp_path):
    with pytest.raises(ConfigError, match=r"input.resize_mode: letterbox is not supported in tr"):
        train(read("input.resize_mode=letterbox"))
    path = tmp_path / "ma_clip.yaml"
    data = [{"reader": "patches", "root": ".", "modality": "thermal"}]
    plain = {"tower": "tiny", "data": data, "captions": "c.jsonl", "run": {"out": "x"}}
    path.write_text(yaml.safe_dump({**plain, "input": {"resize_mode": "letterbox"}}))
    with pytest.raises(ConfigError, match=r"ma_clip.yaml: input.resize_mode: letterbox"):
        read_ma_clip_run(path)


@pytest.mark.parametrize(
    "change", ["data.0.modality=lidar", "encoding.added={lidar: {encoder: picture}}"]
)
def test_a_modality_beyond_the_five_is_refused(read, tmp_path, change):
    message = r"modality 'lidar' is none of the paper's five; .* training\.add_modality"
    with pytest.raises(ConfigError, match=message):
        train(read(change))
    path = tmp_path / "ma_clip.yaml"
    plain = {"tower": "tiny", "data": RUN["data"], "captions": "c.jsonl", "run": {"out": "x"}}
    path.write_text(yaml.safe_dump(plain))
    with pytest.raises(ConfigError, match=message):
        MaClipTask(read_ma_clip_run(path, [change]))


@pytest.mark.parametrize("points", [0, 300])
def test_geminifusion_has_a_loss_on_each_stream_and_on_its_ensemble(read, points):
    shape = {"embed_dims": (8, 16, 24, 32), "depths": (1, 1, 1, 1), "num_heads": (1, 2, 2, 2)}
    model = GeminifusionConfig(backbone=shape, head={"embed_dim": 16, "dropout": 0.0})
    assert model.detach_ensemble  # as published
    task = SegmentationTask(read(f"loss.points={points}").model_copy(update={"model": model}))
    batch = next(task.batches(0, 0, 1))
    torch.manual_seed(0)
    terms = task.objective(batch)
    torch.manual_seed(0)
    streams = task.model.stream_logits(batch["rgb"], batch["x"])
    ensemble = task.model.ensemble(*streams)
    size = batch["labels"].shape[1:]
    losses = []
    for coarse in (*streams, ensemble):
        pixels = task.objective._at_pixels(coarse, batch["labels"], size)
        losses.append(task.objective.loss(*pixels, batch["native"])["loss"])
    assert terms["loss"].item() == pytest.approx(sum(losses).item(), rel=1e-5)
    terms["loss"].backward()
    assert all(value.grad is not None for value in task.model.parameters())
    alpha = task.model.alpha.grad.clone()
    task.objective.zero_grad()
    losses[2].backward()
    trained = [name for name, value in task.model.named_parameters() if value.grad is not None]
    assert trained == ["alpha"]
    torch.testing.assert_close(task.model.alpha.grad, alpha, rtol=1e-3, atol=1e-6)


def test_a_state_of_other_weight_decay_is_refused(read):
    config = read("run.steps=1")
    train(config)
    path = Path(config.run.out) / "state.pt"
    state = torch.load(path, weights_only=True)
    decayed, kept = state["optimizer"]["param_groups"]
    decayed["params"].append(kept["params"].pop())
    torch.save(state, path)
    with pytest.raises(CheckpointError, match="a version that decays other weights"):
        train(config)
