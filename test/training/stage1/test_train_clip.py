"""The small CLIP from rendered scenes to stage 1: towers, their file, scores, mistakes."""

import json
import logging

import numpy as np
import pytest
import torch
import yaml

pytest.importorskip("embreex", reason="rendering needs embreex")
pytest.importorskip("open_clip")
pytest.importorskip("peft")

from segrgbx_core.base.errors import CheckpointError, ConfigError, DataError
from segrgbx_core.base.modality import Modality
from segrgbx_core.model.clip_weights import load_clip_weights
from segrgbx_core.model.ma_clip import ModalityAwareClip
from segrgbx_core.model.tensor_files import read_tensors, write_tensors
from training import captions, train_ma_clip
from training.engine.loop import Loop
from training.stage1 import retrieval_page
from training.stage1.captions import read_captions
from training.stage1.clip_task import ClipTask, train_clip
from training.stage1.config import ClipRun, read_clip_run, read_ma_clip_run, read_pair_run
from training.stage1.retrieval import collapse, has_learned, mean_cosine
from training.stage1.small_clip import KEY, MAX_SCALE, read_small_clip, tower_facts
from training.stage1.task import MaClipTask
from training.train_clip import main
from training.world.config import WorldConfig
from training.world.render import Job, render_job

pytestmark = pytest.mark.clip

TOWER = {"image_size": 16, "output_dim": 24, "embed_dim": 24, "depth": 1}
RUN = {
    "tower": "tiny",
    "ma_clip": TOWER,
    "text_tower": {"context": 48, "width": 16, "depth": 1, "num_heads": 2},
    "input": {"height": 36, "width": 48},
    "views": {"jitter": 0.0},
    "run": {"steps": 6, "batch_size": 4, "device": "cpu", "threads": 1, "log_every": 2,
            "save_every": 2, "score_every": 3},
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A handful of rendered streets with a thermal camera."""
    root = tmp_path_factory.mktemp("scenes")
    config = WorldConfig(width=64, height=48)
    for split, seeds in (("train", range(6)), ("val", range(100, 104))):
        (root / split).mkdir()
        for seed in seeds:
            render_job(Job(seed, (0.5,), (Modality.THERMAL,), config, root / split))
    return root


@pytest.fixture(scope="module")
def run_file(data):
    path = data / "clip.yaml"
    sets = [{"reader": "synthetic_street", "root": str(data), "modality": "thermal",
             "options": {"x": "none"}}]  # fmt: skip
    run = {**RUN, "data": sets, "captions": str(data / "captions.jsonl")}
    path.write_text(yaml.safe_dump({**run, "run": {**RUN["run"], "out": str(data / "out")}}))
    assert captions.main([str(path), "--backend", "scene"]) == 0
    return path


@pytest.fixture(scope="module")
def trained(run_file, data):
    out = data / "trained"
    assert main([str(run_file), "--set", f"run.out={out}"]) == 0
    return out


@pytest.fixture(scope="module")
def stage_1_file(data, run_file, trained):
    """Stage 1 on the trained towers; its captions are those of the CLIP."""
    path = data / "ma_clip.yaml"
    run = {key: RUN[key] for key in ("tower", "ma_clip", "input", "run")}
    run |= {
        "captions": str(data / "captions.jsonl"),
        "data": [{"reader": "synthetic_street", "root": str(data), "modality": "thermal"}],
        "text": {"model": "small", "weights": str(trained / "best.safetensors")},
    }
    path.write_text(yaml.safe_dump({**run, "run": {**RUN["run"], "out": str(data / "stage_1")}}))
    return path


def read(run_file, out, *overrides):
    return read_clip_run(run_file, [f"run.out={out}", *overrides])


def test_captions_know_what_the_record_knows(run_file, data):
    found = read_captions(data / "captions.jsonl")
    assert len(found) == 10
    assert len({caption.text for caption in found.values()}) >= 9
    assert all(caption.tokens <= 48 for caption in found.values())
    times = (" in sun", " under clouds", " at dusk", " at night")
    assert all(any(time in caption.text for time in times) for caption in found.values())


def test_run_folder_holds_both_towers_and_scores_beside_chance(trained):
    clip = read_small_clip(trained / "best.safetensors")
    assert clip.text_config.width == 16
    header = json.loads(read_tensors(trained / "best.safetensors")[1][KEY])
    assert header["provenance"]["run"]["text_tower"]["context"] == 48
    lines = map(json.loads, (trained / "metrics.jsonl").read_text().splitlines())
    (*_, scores) = [line for line in lines if "score" in line]
    name = "synthetic_street_rgb"
    assert scores[f"{name}_chance_r1"] == 1 / 4
    assert scores[f"{name}_chance_r5"] == 1.0
    assert scores["score"] == scores[f"{name}_r1"]
    assert {f"{name}_r5", f"{name}_cosine", "synthetic_street_text_cosine", "collapsed"} <= set(
        scores
    )


def test_both_towers_learn(run_file, tmp_path):
    config = read(run_file, tmp_path, "data.0.val_split=train", "run.steps=150",
                  "run.batch_size=6", "run.score_every=150", "views.flip=0",
                  "views.smallest_crop=1", "optimizer.learning_rate=0.003")  # fmt: skip
    task = ClipTask(config)
    before = {name: value.clone() for name, value in task.clip.state_dict().items()}
    Loop(task, config.run, config.optimizer, config).train()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["synthetic_street_rgb_r1"] >= 4 / 6
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < 0.5 * losses[0]
    for name, value in task.clip.state_dict().items():
        if name != "text.attn_mask":
            assert not torch.equal(value, before[name]), name


def test_a_stopped_run_ends_bit_equal(run_file, trained, tmp_path):
    config = read(run_file, tmp_path)
    task = ClipTask(config)
    step, taken = task.objective.forward, []

    def stops(batch):
        if len(taken) == 5:
            raise KeyboardInterrupt
        taken.append(1)
        return step(batch)

    task.objective.forward = stops
    with pytest.raises(KeyboardInterrupt):
        Loop(task, config.run, config.optimizer, config).train()
    train_clip(config)
    for name in ("best", "last"):
        ours, theirs = (
            read_tensors(out / f"{name}.safetensors")[0] for out in (tmp_path, trained)
        )
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


def test_stage_1_takes_both_towers_as_they_are(stage_1_file, trained, data):
    assert train_ma_clip.main([str(stage_1_file), "--precompute"]) == 0
    clip = read_small_clip(trained / "best.safetensors").eval()
    run = read_ma_clip_run(stage_1_file)
    ma_clip = ModalityAwareClip(run.ma_clip)
    load_clip_weights(ma_clip, data / "stage_1" / "tower.safetensors")
    images = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(ma_clip.tower(images), clip.encode_image(images))
    task = MaClipTask(run)
    texts = {key: text for split in task.dataset.splits for key, text in split.texts.items()}
    key = next(iter(texts))
    expected = clip.encode_text(clip.tokenize([texts[key]]))[0]
    found = task.table.by_caption()[key]
    torch.testing.assert_close(found, expected)
    assert task.table.scale == pytest.approx(clip.scale().item())
    assert "random weights" not in (data / "stage_1" / "log.txt").read_text()
    assert task.judge()["synthetic_street_thermal_x_chance_r1"] == 1 / 4


def test_a_mirrored_pair_has_the_mirrored_caption(run_file, tmp_path):
    plain = ClipTask(read(run_file, tmp_path, "views.flip=0", "views.smallest_crop=1"))
    turned = ClipTask(read(run_file, tmp_path, "views.flip=1", "views.smallest_crop=1"))
    is_other = False
    for draw in range(4):
        one, other = plain.dataset[draw], turned.dataset[draw]
        torch.testing.assert_close(one["rgb"].flip(-1), other["rgb"], atol=1e-5, rtol=0)
        words = [_words(item["text"]) for item in (one, other)]
        swapped = {"left": "right", "right": "left"}
        assert [swapped.get(word, word) for word in words[0]] == words[1]
        is_other |= words[0] != words[1]
        assert (one["caption"] != other["caption"]).item() is (words[0] != words[1])
    assert is_other


def _words(tokens):
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer().decode(tokens[tokens > 0].tolist()).split()


def test_phrases_are_left_out_but_the_first(run_file, tmp_path):
    whole = ClipTask(read(run_file, tmp_path)).dataset
    task = ClipTask(read(run_file, tmp_path, "phrase_drop=0.9"))
    pairs = [(whole[draw], task.dataset[draw]) for draw in range(8)]
    texts = [[" ".join(_words(item["text"])[1:-1]) for item in pair] for pair in pairs]
    assert all(short.split(" ,")[0] == long.split(" ,")[0] for long, short in texts)
    assert sum(len(short) < len(long) for long, short in texts) > 4
    assert all(one["caption"] == other["caption"] for one, other in pairs)


def test_captions_of_views_tell_what_the_view_shows(run_file, tmp_path):
    options = ("view_captions=true", "views.flip=0", "views.smallest_crop=1")
    whole = ClipTask(read(run_file, tmp_path)).dataset
    told = ClipTask(read(run_file, tmp_path, *options)).dataset
    stored = ClipTask(read(run_file, tmp_path, *options[1:])).dataset
    for draw in range(4):
        assert torch.equal(told[draw]["text"], stored[draw]["text"])
    turned = ClipTask(read(run_file, tmp_path, *options, "views.flip=1")).dataset
    mirrors = ClipTask(read(run_file, tmp_path, *options[1:], "views.flip=1")).dataset
    sizes = [sum(len(item["text"].nonzero()) for item in (d[0], d[1])) for d in (turned, mirrors)]
    assert abs(sizes[0] - sizes[1]) <= 2  # a thing in the middle may be rounded to another third
    cropped = ClipTask(read(run_file, tmp_path, "view_captions=true", "views.smallest_crop=0.3"))
    assert any(
        not torch.equal(cropped.dataset[draw]["text"], whole[draw]["text"]) for draw in range(4)
    )


def test_the_scale_has_a_ceiling(run_file, tmp_path):
    clip = ClipTask(read(run_file, tmp_path)).clip
    with torch.no_grad():
        clip.logit_scale.fill_(9.0)
    assert float(clip.scale().detach()) == pytest.approx(MAX_SCALE)


def test_collapse_is_noticed_in_the_clip(run_file, tmp_path, caplog):
    task = ClipTask(read(run_file, tmp_path))
    with torch.no_grad():
        task.clip.visual["trunk"].head.weight.zero_()
        task.clip.visual["trunk"].head.bias.fill_(1.0)
    task.save(tmp_path / "last.safetensors", 0, {})
    with caplog.at_level(logging.WARNING):
        scores = task.score(tmp_path / "last.safetensors")
    assert scores["synthetic_street_rgb_cosine"] == pytest.approx(1.0)
    assert scores["collapsed"] >= 1.0
    assert scores["synthetic_street_rgb_r1"] == 1 / 4  # one of them is everyone's nearest
    assert "nearly equal, mean cosine synthetic_street_rgb 1.0000" in caplog.text


def test_collapse_is_noticed_in_the_adapters(stage_1_file, tmp_path, caplog):
    task = MaClipTask(read_ma_clip_run(stage_1_file, [f"run.out={tmp_path}"]))
    with torch.no_grad():
        task.ma_clip.tower.head.weight.zero_()
        task.ma_clip.tower.head.bias.fill_(1.0)
    with caplog.at_level(logging.WARNING):
        scores = task.judge()
    assert scores["synthetic_street_thermal_x_cosine"] == pytest.approx(1.0)
    assert scores["collapsed"] == 2.0
    assert "synthetic_street_thermal_x 1.0000" in caplog.text


def test_cosine_is_the_mean_over_pairs():
    rows = torch.randn(7, 5, dtype=torch.float64)
    unit = torch.nn.functional.normalize(rows, dim=1)
    pairs = [float(unit[i] @ unit[j]) for i in range(7) for j in range(7) if i != j]
    assert mean_cosine(rows) == pytest.approx(np.mean(pairs))
    assert np.isnan(mean_cosine(rows[:1]))
    assert collapse({"a_cosine": 0.98, "b_cosine": 0.995, "b_r1": 1.0}) == {"collapsed": 1.0}
    assert collapse({"a_cosine": float("nan")}) == {"collapsed": 0.0}


@pytest.mark.parametrize(
    ("hits", "images", "chance", "learned"),
    [(7, 200, 1 / 200, True), (4, 200, 1 / 200, False), (0, 200, 1 / 200, False),
     (6, 20, 1 / 20, True), (3, 20, 1 / 20, False), (4, 4, 1.0, False)],
)  # fmt: skip
def test_learned_is_what_guessing_does_not_reach(hits, images, chance, learned):
    assert has_learned(hits, images, chance) is learned


def test_page_puts_recall_beside_chance(trained, tmp_path, capsys):
    page = tmp_path / "page.md"
    assert retrieval_page.main([str(trained), "--out", str(page)]) == 0
    text = page.read_text()
    assert "## trained, step 6" in text
    assert "| synthetic_street_rgb | 4 |" in text
    assert retrieval_page.main([str(tmp_path / "none"), "--out", str(page)]) == 2
    assert "cannot be read" in capsys.readouterr().err
    for number, line in enumerate(('{"loss": 1}', '{"step": 1, "score": 1}', "[", "")):
        run = tmp_path / str(number)
        run.mkdir()
        (run / "metrics.jsonl").write_text(line)
        with pytest.raises(DataError, match="holds no"):
            retrieval_page.last_retrieval(run)


def fails(run_file, out, error, text, *overrides):
    with pytest.raises(error, match=text):
        MaClipTask(read_ma_clip_run(run_file, [f"run.out={out}", *overrides]))


def test_wrong_and_foreign_files_are_one_sentence(stage_1_file, trained, tmp_path):
    good = trained / "best.safetensors"
    tensors, facts = read_tensors(good)

    def refused(error, text, *overrides, name="clip.safetensors"):
        weights = f"text.weights={tmp_path / name}"
        fails(stage_1_file, tmp_path / "out", error, text, weights, *overrides)

    refused(CheckpointError, "does not exist", name="nowhere.safetensors")
    fails(stage_1_file, tmp_path / "out", ConfigError, "text.weights: is empty", "text.weights=")
    fails(stage_1_file, tmp_path / "out", ConfigError, "names a tag of open_clip",
          "text.weights=", "text.pretrained=openai")  # fmt: skip
    write_tensors(tmp_path / "clip.safetensors", tensors, {})
    refused(CheckpointError, "holds no towers of `python -m training.train_clip`")
    damaged = ("[", "{}", '{"tower": 3, "text": {}}', '{"tower": {"depth": 0}, "text": {}}')
    for text in (*damaged, facts[KEY].replace('"num_heads": 2', '"num_heads": 7')):
        write_tensors(tmp_path / "clip.safetensors", tensors, {KEY: text})
        refused(CheckpointError, "damaged")
    short = {name: value for name, value in tensors.items() if name != "logit_scale"}
    write_tensors(tmp_path / "clip.safetensors", short, facts)
    refused(CheckpointError, "1 missing, first 'logit_scale'")
    tensors["logit_scale"] = torch.tensor(float("nan"))
    write_tensors(tmp_path / "clip.safetensors", tensors, facts)
    refused(CheckpointError, "logit_scale")
    (tmp_path / "clip.safetensors").write_bytes(good.read_bytes()[:-100])
    refused(CheckpointError, r"clip\.safetensors: ")
    same = f"text.weights={good}"
    fails(stage_1_file, tmp_path / "out", ConfigError, "ma_clip.depth: is 2, but .* with 1", same,
          "ma_clip.depth=2")  # fmt: skip
    fails(stage_1_file, tmp_path / "out", ConfigError, "ma_clip.num_heads: is 2", same,
          "ma_clip.num_heads=2")  # fmt: skip


def test_another_clip_of_the_same_size_is_refused_on_resuming(stage_1_file, trained, tmp_path):
    copy = tmp_path / "clip.safetensors"
    copy.write_bytes((trained / "best.safetensors").read_bytes())
    overrides = [f"run.out={tmp_path / 'out'}", f"text.weights={copy}"]
    MaClipTask(read_ma_clip_run(stage_1_file, overrides))
    tensors, facts = read_tensors(copy)
    tensors["logit_scale"] += 0.5
    write_tensors(copy, tensors, facts)
    with pytest.raises(CheckpointError, match="comes from another CLIP"):
        MaClipTask(read_ma_clip_run(stage_1_file, overrides))


def test_mistakes_of_the_run_are_one_line(run_file, tmp_path, capsys):
    with pytest.raises(ConfigError, match="no multiple of num_heads"):
        read(run_file, tmp_path, "text_tower.num_heads=3")
    with pytest.raises(ConfigError, match="is an option of stage 2"):
        read(run_file, tmp_path, "run.epochs=2")
    assert main([str(run_file), "--set", "captions=missing.jsonl", f"run.out={tmp_path}"]) == 2
    assert "missing.jsonl: cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["clip", "reproduce_small_clip"])
def test_shipped_run_files_load(name):
    run = read_pair_run(f"config/train/{name}.yaml")
    assert isinstance(run, ClipRun)
    assert run.text_tower.context == 48


@pytest.mark.parametrize("name", ["demo_ma_clip", "reproduce_small_ma_clip"])
def test_shipped_run_files_of_stage_1_fit_the_towers(name):
    run = read_ma_clip_run(f"config/train/{name}.yaml")
    assert run.text.model == "small"
    clip = read_clip_run(f"config/train/{name.replace('demo_', '').replace('ma_', '')}.yaml")
    assert tower_facts(run.ma_clip) == tower_facts(clip.ma_clip)
