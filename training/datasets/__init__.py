"""Former place of `training.data.datasets`, where `export_rendered` is still found as a command."""

from pathlib import Path

__path__ = [str(Path(__file__).parents[1] / "data" / "datasets")]
