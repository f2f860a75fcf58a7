"""Ablations: variants are real options that differ, trials resume, pages state their limits."""

import json

import numpy as np
import pytest
import torch
from stage2_case import SQUARES, write_run

from segrgbx_core.base.config import to_plain
from segrgbx_core.base.errors import ConfigError
from segrgbx_core.base.images import read_image
from segrgbx_core.bench.cost import PAPER_TABLE_IV
from segrgbx_core.model import ALL_PRESETS, PRESETS, build_model
from segrgbx_core.model.ma_clip import ModalityAwareClip
from segrgbx_core.runtime.checkpoint import load_checkpoint
from training import ablate
from training.engine.loop import TrainingDivergedError
from training.experiments import trials
from training.experiments.ablation import plan_trials
from training.experiments.trials import seed_statistics
from training.experiments.variants import TABLES, AblationTable, Variant
from training.stage2.config import read_run


@pytest.fixture
def run_file(tmp_path, made_readers):
    return write_run(tmp_path, SQUARES, {"run": {"out": "unused", "steps": 2}})


def command(run_file, table, *more):
    return ablate.main([table, str(run_file), "--out", str(run_file.parent / "out"), *more])


def page_of(run_file, table):
    folder = run_file.parent / "out"
    text = (folder / f"{table}.md").read_text()
    return json.loads((folder / f"{table}.json").read_text()), text


@pytest.mark.parametrize("table", TABLES.values(), ids=list(TABLES))
def test_variants_are_options_and_differ(table):
    models = [table.model(variant, PRESETS["b2"]) for variant in table.variants]
    assert len({json.dumps(to_plain(model), sort_keys=True) for model in models}) == len(models)
    reference = table.model(table.variant(table.reference), PRESETS["b2"])
    assert reference == PRESETS["b2"]  # the presets are the paper's model
    best = max(table.variants, key=lambda variant: variant.paper_miou)
    assert best.name == table.reference


@pytest.mark.parametrize("table", TABLES.values(), ids=list(TABLES))
def test_variants_compute_different_things_and_every_weight_learns(table, tmp_path, run_file):
    config = read_run(run_file)
    generator = torch.Generator().manual_seed(0)
    rgb, x = (torch.rand(2, 3, 64, 64, generator=generator) for _ in range(2))
    embeddings = torch.randn(2, 2, 16, generator=generator)
    outputs = []
    for variant in table.variants:
        torch.manual_seed(0)
        network = build_model(table.model(variant, config.model), 5, 16).eval()
        logits = network(rgb, x, *embeddings, torch.tensor([1, 2]))
        logits.square().mean().backward()
        idle = [name for name, value in network.named_parameters() if value.grad is None]
        assert idle == [], variant.name  # several GPUs would wait for them
        outputs.append(logits.detach())
    for i, first in enumerate(outputs):
        for second in outputs[i + 1 :]:
            assert not torch.equal(first, second)


def test_options_that_do_not_exist_fail():
    variant = Variant("wrong", "wrong", {"refinement.structur": "a"})
    table = AblationTable("broken", "0", "broken", (variant,), "wrong")
    with pytest.raises(ConfigError, match="did you mean 'structure'"):
        table.model(variant, PRESETS["tiny"])
    value = Variant("wrong", "wrong", {"refinement.structure": "z"})
    with pytest.raises(ConfigError, match="'z' is not one of a, b, c"):
        table.model(value, PRESETS["tiny"])


def test_models_without_what_the_table_varies_are_refused():
    table = TABLES["refinement_pairing"]
    model = PRESETS["tiny"].model_copy(update={"use_ma_clip": False})
    with pytest.raises(ConfigError, match="use_ma_clip is false"):
        table.model(table.variants[0], model)
    with pytest.raises(ConfigError, match="architecture 'cmx' has none"):
        table.model(table.variants[0], ALL_PRESETS["cmx_tiny"])


def test_trains_scores_resumes_and_writes_the_page(run_file, monkeypatch):
    assert command(run_file, "components", "--only", "none", "full", "--seeds", "0,1") == 0
    content, text = page_of(run_file, "components")
    arms = {arm["arm"]: arm for arm in content["arms"]}
    folder = run_file.parent / "out"
    for name, arm in arms.items():
        assert len(arm["runs"]) == (2 if name in ("none", "full") else 0)
    models = {
        name: load_checkpoint(folder / arms[name]["runs"][0]["folder"] / "best.safetensors")
        for name in ("none", "full")
    }
    assert not models["none"].contract.model.use_dsrm
    assert models["full"].contract.model.use_dsrm
    assert models["none"].contract.provenance["steps"] == 2
    sizes = {name: len(loaded.model.state_dict()) for name, loaded in models.items()}
    assert sizes["none"] < sizes["full"]

    difference = arms["none"]["difference"]
    own = [run["miou_percent"] for run in arms["none"]["runs"]]
    reference = [run["miou_percent"] for run in arms["full"]["runs"]]
    assert difference["count"] == 2
    assert difference["mean"] == pytest.approx(np.mean(np.subtract(own, reference)))
    assert arms["full"]["difference"] is None
    assert arms["none"]["paper"]["difference"] == pytest.approx(-2.86)
    for words in ("*paper* mIoU", "62.17", "synthetic", "Not run: without_ma_clip"):
        assert words in text
    for words in ("2 scored pictures", "tower is random", "Not told apart from full", "reference"):
        assert words in text

    picture = read_image(folder / "components.png")
    assert picture.shape[1] == 1500
    assert picture.std() > 20

    def forbidden(config):
        raise AssertionError(f"trained again in {config.run.out}")

    monkeypatch.setattr(trials, "train", forbidden)
    assert command(run_file, "components", "--only", "none", "full", "--seeds", "0,1") == 0
    assert page_of(run_file, "components")[0]["arms"] == content["arms"]
    # The full model is the reference of the other tables too: one training serves all.
    assert command(run_file, "prompt_pairing", "--only", "rgb_dominant") == 0
    shared = page_of(run_file, "prompt_pairing")[0]["arms"][2]["runs"][0]
    assert shared["folder"] == arms["full"]["runs"][0]["folder"]
    assert "One seed per arm" in page_of(run_file, "prompt_pairing")[1]


def test_other_options_do_not_mix_with_finished_trials(run_file, capsys):
    table = TABLES["prompt_pairing"]

    def planned(*changes):
        out = run_file.parent / "out"
        return plan_trials(table, read_run(run_file, changes), out, [0], ["aligned"])[0]

    trial = planned()
    trial.folder.mkdir(parents=True)
    result = {"recipe": trial.recipe(), "seed": 0, "scores": [], "miou_percent": 1.0}
    trial.result_path.write_text(json.dumps(result))
    only = ["--only", "aligned", "--set", "optimizer.learning_rate=0.5"]
    assert command(run_file, table.name, *only) == 2
    expected = "with other options: optimizer.learning_rate was 0.0001, is 0.5; choose another"
    assert expected in capsys.readouterr().err
    for change in ("data.0.root=..", "run.score_every=3", "run.patience=1"):
        name = change.partition("=")[0]
        with pytest.raises(ConfigError, match=f"with other options: {name} was"):
            planned(change).result()
    assert planned("run.log_every=7").result() == result
    for name in ("out", "device", "log_every", "tensorboard"):  # as earlier versions wrote it
        del result["recipe"]["run"][name]
    trial.result_path.write_text(json.dumps(result))
    assert planned("run.log_every=7").result() == result
    for content, message in {
        "{": "is damaged .not JSON",
        "[" * 100_000: "is damaged .nested too deep",
        "{}": "is no result of a trial",
        "[1]": "is no result of a trial",
    }.items():
        trial.result_path.write_text(content)
        with pytest.raises(ConfigError, match=f"{message}.*remove the folder to train anew"):
            trial.result()


def test_a_diverged_variant_is_reported_and_the_others_go_on(run_file, monkeypatch):
    real = trials.train

    def train(config):
        if not config.model.use_dsrm:
            raise TrainingDivergedError("step 1: loss is nan")
        return real(config)

    monkeypatch.setattr(trials, "train", train)
    assert command(run_file, "components", "--only", "none", "full") == 0
    content, text = page_of(run_file, "components")
    assert content["failed"] == [{"arm": "none", "seed": 0, "why": "step 1: loss is nan"}]
    assert "none, seed 0 diverged" in text
    assert len(content["arms"][-1]["runs"]) == 1


def test_count_only_trains_nothing(run_file, capsys, monkeypatch):
    monkeypatch.setattr(trials, "train", None)
    arguments = ["structures", str(run_file), "--count-only", "--only", "e", "h"]
    assert ablate.main(arguments) == 0
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[1].strip() for row in rows] == ["`e`", "`h`"]
    assert [float(rows[0][place]) for place in (6, 7)] == list(PAPER_TABLE_IV["e"])
    config = read_run(run_file)
    for row, name in zip(rows, "eh", strict=True):
        model = TABLES["structures"].model(TABLES["structures"].variant(name), config.model)
        parts = build_model(model, 71, 16), ModalityAwareClip(config.ma_clip)
        count = sum(value.numel() for part in parts for value in part.parameters())
        assert float(row[3]) == pytest.approx(count / 1e6, abs=0.006)
        assert float(row[4]) >= float(row[5]) > 0
    assert not (run_file.parent / "out").exists()


def test_mistakes_are_one_line_and_exit_2(run_file, capsys):
    assert command(run_file, "structures", "--only", "z") == 2
    assert "arm 'z' is not one of a, b" in capsys.readouterr().err
    assert command(run_file, "structures", "--seeds", "0,0") == 2
    assert "--seeds 0,0" in capsys.readouterr().err
    assert ablate.main(["structures", str(run_file)]) == 2
    assert "--out" in capsys.readouterr().err


def test_seed_statistics_by_hand():
    assert seed_statistics([]) is None
    assert seed_statistics([3.0]) == {
        "count": 1,
        "mean": 3.0,
        "std": None,
        "low": None,
        "high": None,
    }
    found = seed_statistics([1.0, 2.0, 3.0])
    assert (found["mean"], found["std"]) == (2.0, 1.0)
    assert found["high"] - 2.0 == pytest.approx(4.303 / np.sqrt(3), rel=1e-3)
    assert seed_statistics([1.0, 1.0])["low"] == 1.0
