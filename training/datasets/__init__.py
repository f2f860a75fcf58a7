"""Former place of `training.data.datasets`: its command `export_rendered` is still found here."""

from pathlib import Path

__path__ = [str(Path(__file__).parents[1] / "data" / "datasets")]
