"""Checkpoint files as arrays: .npz, .safetensors, and what torch writes (skipped without torch)."""

from collections import OrderedDict

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


def test_torchs_dtypes_views_and_parameters(tmp_path):
    torch = pytest.importorskip("torch")
    base = torch.randn(6, 4)
    tensors = OrderedDict(
        transposed=base.T,
        column=base[:, 1],
        half=base.half(),
        bfloat16=base.bfloat16(),
        double=base.double(),
        int64=torch.arange(5) - 2,
        bool=torch.tensor([True, False]),
        scalar=torch.tensor(3),
        empty=torch.zeros(0, 3),
        channels_last=torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        parameter=torch.nn.Parameter(base * 2),
    )
    torch.save(tensors, tmp_path / "a.pth")
    read = read_arrays(tmp_path / "a.pth")
    assert set(read) == set(tensors)
    for key, tensor in tensors.items():
        assert read[key].dtype.name == str(tensor.dtype).removeprefix("torch.")
        array = read[key].astype(np.float64)
        np.testing.assert_array_equal(array, tensor.detach().double().numpy())


def test_torchs_files_of_other_kinds_are_refused_by_name(tmp_path):
    torch = pytest.importorskip("torch")
    nn = torch.nn
    path = tmp_path / "a.pth"
    state = nn.Conv2d(1, 2, 3).state_dict()
    torch.save(state, path, _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match=r"format before 1\.6"):
        read_arrays(path)
    # Its advice works, on a state dict and on a whole module.
    new = tmp_path / "new.pth"
    torch.save(torch.load(path, weights_only=True), new)
    np.testing.assert_array_equal(read_arrays(new)["weight"], state["weight"].numpy())
    module = nn.Conv2d(1, 2, 3)
    torch.save(module, path, _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match=r"weights_only=False\)\.state_dict\(\), new_path"):
        read_arrays(path)
    torch.save(torch.load(path, weights_only=False).state_dict(), new)
    np.testing.assert_array_equal(read_arrays(new)["bias"], module.bias.detach().numpy())
    torch.save(nn.Conv2d(1, 2, 3), path)
    with pytest.raises(ValueError, match=r"asks for torch\.nn\.modules\.conv\.Conv2d"):
        read_arrays(path)
    torch.save({"epoch": 1, "state_dict": state, "ema": dict(state)}, path)
    with pytest.raises(ValueError, match=r"nested under 'state_dict' and 'ema'.*\['state_dict'\]"):
        read_arrays(path)
    torch.save(torch.ones(3), path)
    with pytest.raises(ValueError, match=r"holds a Tensor, not a state_dict"):
        read_arrays(path)
    torch.save({"weight": torch.ones(3), "epoch": 3}, path)
    with pytest.raises(ValueError, match="'epoch' is not a tensor"):
        read_arrays(path)
