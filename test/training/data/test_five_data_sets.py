"""All five data sets in one run: from files to a checkpoint, and its scores per data set."""

from stage2_case import write_run

from segrgbx_core.runtime.checkpoint import load_checkpoint
from training.data.datasets import open_reader
from training.eval.scoring import evaluate
from training.evaluate import main as evaluate_main
from training.stage2.config import read_run
from training.stage2.task import train


def test_from_files_to_scores(tmp_path, write_world, capsys):
    data = []
    for name in ("deliver", "mfnet", "nyu", "zju_rgbp", "urbanlf"):
        root = tmp_path / name
        modality, val = write_world(name, root)
        data.append(
            {"reader": name, "root": str(root), "modality": modality.value, "val_split": val}
        )
    data[0]["options"] = {"weather": ["rain"]}
    run = {
        "input": {"height": 64, "width": 64},
        "augment": {"crop_width": 64},
        "loss": {"points": 200},
        "data": data,
        "run": {"out": str(tmp_path / "run"), "steps": 3, "batch_size": 5, "score_every": 3,
                "sampling": "equal"},
    }  # fmt: skip
    path = write_run(tmp_path, run)
    best = train(read_run(path))
    contract = load_checkpoint(best).contract
    assert set(contract.native_spaces) == {entry["reader"] for entry in data}
    reader = open_reader("mfnet", tmp_path / "mfnet", "val", contract.modalities[1])
    assert evaluate(best, reader).names == reader.space.names
    status = evaluate_main(
        [str(best), "--reader", "deliver", "--root", str(tmp_path / "deliver"), "--split", "val",
         "--modality", "event", "--set", "weather=[sun]", "--device", "cpu"]
    )  # fmt: skip
    assert status == 0
    out = capsys.readouterr().out
    assert "| motionblur |" in out
    assert "| rain |" not in out
