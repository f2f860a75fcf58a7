"""Fixtures of the core's tests."""

from types import SimpleNamespace

import pytest


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """A small exported model, read-only: folder, report of the export, lines of its progress."""
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    from small_models import small_contract

    from segrgbx_core.export.export import ExportConfig, export_checkpoint
    from segrgbx_core.runtime.checkpoint import random_weights

    folder, lines = tmp_path_factory.mktemp("export") / "model", []
    report = export_checkpoint(
        random_weights(small_contract()),
        folder,
        ExportConfig(fixed_size=True, simplify=False),
        progress=lines.append,
    )
    return SimpleNamespace(folder=folder, report=report, lines=lines)
