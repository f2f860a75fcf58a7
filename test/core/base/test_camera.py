import numpy as np
import pytest

from segrgbx_core.base.camera import Pinhole, depth_counts, depth_metres


def test_rays_of_a_pinhole():
    camera = Pinhole(fx=2.0, fy=4.0, cx=1.0, cy=0.5)
    assert camera.columns(3).tolist() == [-0.5, 0.0, 0.5]
    assert camera.rows(2).tolist() == [-0.125, 0.125]
    assert camera.matrix.tolist() == [[2, 0, 1], [0, 4, 0.5], [0, 0, 1]]
    assert camera.scaled(2, 3) == Pinhole(4.0, 12.0, 2.0, 1.5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_depth_in_metres(dtype):
    counts = depth_metres(np.array([[0, 1000, 65535]], np.uint16), 0.001, dtype)
    assert counts.dtype == dtype
    np.testing.assert_allclose(counts, [[0, 1, 65.535]], rtol=1e-6)
    floats = np.array([[np.nan, -1, np.inf, 2.5]], np.float32)
    np.testing.assert_array_equal(depth_metres(floats, 0.001, dtype), floats)


def test_depth_in_counts():
    metres = np.array([0.0004, 0.0006, 1.5, 65.535, 65.536, -1, np.nan, np.inf], np.float32)
    assert depth_counts(metres).tolist() == [0, 1, 1500, 65535, 0, 0, 0, 0]
    assert depth_counts(np.array([1.5]), 0.0001).tolist() == [15000]
    counts = np.arange(65536, dtype=np.uint16)
    np.testing.assert_array_equal(depth_counts(depth_metres(counts, 0.001)), counts)
