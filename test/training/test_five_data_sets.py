"""All five data sets in one run: from files to a checkpoint, and its scores per data set."""

import yaml

from segrgbx_core.checkpoint import load_checkpoint
from training.config import read_run
from training.datasets import open_reader
from training.evaluate import evaluate
from training.evaluate import main as evaluate_main
from training.train_segmentation import train

RUN = {
    "preset": "tiny",
    "tower": "tiny",
    "model": {
        "backbone": {"embed_dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1]},
        "head": {"embed_dim": 16},
    },
    "ma_clip": {"image_size": 32, "output_dim": 16, "embed_dim": 24, "depth": 1},
    "input": {"height": 64, "width": 64},
    "augment": {"crop_height": 32, "crop_width": 64},
    "loss": {"points": 200},
}


def test_from_files_to_scores(tmp_path, write_world, capsys):
    data = []
    for name in ("deliver", "mfnet", "nyu", "zju_rgbp", "urbanlf"):
        root = tmp_path / name
        modality, val = write_world(name, root)
        data.append(
            {"reader": name, "root": str(root), "modality": modality.value, "val_split": val}
        )
    data[0]["options"] = {"weather": ["rain"]}
    run = {"steps": 3, "batch_size": 5, "device": "cpu", "threads": 1, "score_every": 3}
    run.update(out=str(tmp_path / "run"), sampling="equal", log_every=1)
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({**RUN, "data": data, "run": run}))
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
