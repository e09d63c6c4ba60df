import numpy as np
import pytest
from safetensors.numpy import save_file

from cxr_jax.weights.arrays import read_arrays


def test_a_file_that_is_absent_or_of_unknown_suffix_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no weights file .*absent\.npz"):
        read_arrays(tmp_path / "absent.npz")
    with pytest.raises(ValueError, match=r"suffix '\.h5'; read are \.npz, \.safetensors, \.pth"):
        read_arrays(tmp_path / "weights.h5")


@pytest.mark.parametrize("suffix", ["npz", "safetensors", "pth"])
@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"PK\x03\x04 cut off"])
def test_a_damaged_file_is_one_clear_error(tmp_path, suffix, content):
    path = tmp_path / f"weights.{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"weights\.{suffix}: "):
        read_arrays(path)


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_a_truncated_file_is_one_clear_error(tmp_path, suffix):
    path = tmp_path / f"weights.{suffix}"
    arrays = {"a": np.arange(1000.0), "b": np.arange(1000.0)}
    np.savez(path, **arrays) if suffix == "npz" else save_file(arrays, path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ValueError, match="not a sound"):
        read_arrays(path)


def test_an_npz_with_pickled_objects_is_refused(tmp_path):
    np.savez(tmp_path / "weights.npz", a=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match=r"not a sound \.npz of plain arrays"):
        read_arrays(tmp_path / "weights.npz")


def test_a_lone_npy_under_the_name_npz_is_refused(tmp_path):
    with (tmp_path / "weights.npz").open("wb") as file:
        np.save(file, np.ones(3))
    with pytest.raises(ValueError, match=r"not a sound \.npz"):
        read_arrays(tmp_path / "weights.npz")
