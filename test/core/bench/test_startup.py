"""What a fresh process pays before its first answer."""

import subprocess
import sys

from segrgbx_core.runtime.batch import InputConfig
from segrgbx_core.runtime.checkpoint import random_checkpoint


def test_rows_grow_from_import_to_answer(tmp_path):
    path = tmp_path / "tiny.safetensors"
    random_checkpoint(path, input=InputConfig(height=64, width=64))
    command = [sys.executable, "-m", "segrgbx_core.bench.startup", str(path)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    rows = [line.strip("| ").split(" | ") for line in run.stdout.splitlines()[2:]]
    assert [row[0] for row in rows] == ["import", "loading", "first answer"]
    cpu, peak = ([float(row[column]) for row in rows] for column in (1, 4))
    assert 0 < cpu[0] <= cpu[1] <= cpu[2]
    assert 0 < peak[0] <= peak[1] <= peak[2]
