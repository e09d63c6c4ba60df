"""Files as torch.save writes them, made here with the standard library alone."""

import builtins
import collections
import os
import pickle
import subprocess
import sys
import types
import zipfile

import ml_dtypes
import numpy as np
import pytest

from cxr_jax.weights import torch_pickle
from cxr_jax.weights.arrays import read_arrays


def _fake(module, name):
    """A stand-in that pickles as the global `module.name`; torch itself is not needed."""
    return type(name, (), {"__module__": module, "__qualname__": name})


STORAGES = {
    np.dtype(np.float32): _fake("torch", "FloatStorage"),
    np.dtype(np.float64): _fake("torch", "DoubleStorage"),
    np.dtype(np.float16): _fake("torch", "HalfStorage"),
    np.dtype(ml_dtypes.bfloat16): _fake("torch", "BFloat16Storage"),
    np.dtype(np.int64): _fake("torch", "LongStorage"),
    np.dtype(np.bool_): _fake("torch", "BoolStorage"),
}
REBUILD = _fake("torch._utils", "_rebuild_tensor_v2")
REBUILD_PARAMETER = _fake("torch._utils", "_rebuild_parameter")


class Storage:
    def __init__(self, key, array, numel=None):
        self.key, self.array = key, array
        self.numel = array.size if numel is None else numel


class Call:
    """Pickles as a call of `function` with `arguments`, the result then given attributes."""

    def __init__(self, function, *arguments, state=None):
        self.function, self.arguments, self.state = function, arguments, state

    def __reduce__(self):
        return self.function, self.arguments, self.state


def tensor(storage, offset, shape, strides):
    return Call(REBUILD, storage, offset, shape, strides, False, collections.OrderedDict())


def dense(key, array):
    """A contiguous tensor that owns its storage."""
    strides = tuple(s // array.itemsize for s in array.strides)
    return tensor(Storage(key, array.ravel()), 0, array.shape, strides)


class Pickler(pickle._Pickler):  # the Python one: its save_global can be told to trust us
    def persistent_id(self, obj):
        if isinstance(obj, Storage):
            return ("storage", STORAGES[obj.array.dtype], obj.key, "cpu", obj.numel)
        return None


@pytest.fixture
def save(tmp_path, monkeypatch):
    """save(object, storages) -> path of a .pth; `storages` are written under their keys."""
    for fake in (*STORAGES.values(), REBUILD, REBUILD_PARAMETER):
        module = sys.modules.get(fake.__module__)
        if module is None or not hasattr(module, "_is_fake"):
            module = types.ModuleType(fake.__module__)
            module._is_fake = True
            monkeypatch.setitem(sys.modules, fake.__module__, module)
        setattr(module, fake.__name__, fake)

    def write(saved, storages, byteorder="little"):
        path = tmp_path / "weights.pth"
        with zipfile.ZipFile(path, "w") as archive:
            with archive.open("archive/data.pkl", "w") as file:
                Pickler(file, protocol=2).dump(saved)
            archive.writestr("archive/byteorder", byteorder)
            for storage in storages:
                array = storage.array.byteswap() if byteorder == "big" else storage.array
                archive.writestr(f"archive/data/{storage.key}", array.tobytes())
            archive.writestr("archive/version", "3\n")
        return path

    return write


def _find_storages(tensors):
    return [call.arguments[0] for call in tensors]


@pytest.mark.parametrize("dtype", list(STORAGES), ids=lambda dtype: dtype.name)
def test_every_storage_kind_is_read_bit_for_bit(save, dtype):
    array = np.array([[0, 1, -2.5], [3, 0.1, 65504]]).astype(dtype)
    tensors = [dense("0", array)]
    read = read_arrays(save(collections.OrderedDict(a=tensors[0]), _find_storages(tensors)))
    assert read["a"].dtype == dtype
    np.testing.assert_array_equal(read["a"], array)


def test_bytes_of_a_big_endian_machine_are_swapped(save):
    array = np.array([1.5, -3.25], np.float32)
    path = save({"a": dense("0", array)}, [Storage("0", array)], byteorder="big")
    np.testing.assert_array_equal(read_arrays(path)["a"], array)


def test_views_of_one_storage_are_read_by_offset_and_stride(save):
    base = np.arange(24, dtype=np.float32)
    storage = Storage("0", base)
    saved = collections.OrderedDict(
        transposed=tensor(storage, 0, (4, 6), (1, 4)),
        shifted=tensor(storage, 5, (2, 3), (6, 2)),
        expanded=tensor(storage, 7, (3,), (0,)),
        scalar=tensor(storage, 23, (), ()),
        empty=tensor(storage, 0, (0, 3), (3, 1)),
        parameter=Call(REBUILD_PARAMETER, tensor(storage, 0, (2,), (1,)), True, None),
    )
    read = read_arrays(save(saved, [storage]))
    np.testing.assert_array_equal(read["transposed"], base.reshape(6, 4).T)
    np.testing.assert_array_equal(read["shifted"], [[5, 7, 9], [11, 13, 15]])
    np.testing.assert_array_equal(read["expanded"], [7, 7, 7])
    assert read["scalar"] == 23 and read["scalar"].shape == ()
    assert read["empty"].shape == (0, 3)
    np.testing.assert_array_equal(read["parameter"], [0, 1])


def test_what_lies_beside_the_weights_of_a_checkpoint_is_passed_over(save):
    array = np.ones(2, np.float32)
    saved = {"epoch": 3, "arch": "resnet50", "state_dict": {"w": dense("0", array)}}
    read = read_arrays(save(saved, [Storage("0", array)]), ("state_dict",))
    assert list(read) == ["w"]
    np.testing.assert_array_equal(read["w"], array)


@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (os.system, ("touch {mark}",), r"posix\.system"),
        (builtins.eval, ("open('{mark}', 'w')",), r"__builtin__\.eval"),
        (builtins.exec, ("open('{mark}', 'w')",), r"__builtin__\.exec"),
        (subprocess.check_call, (["touch", "{mark}"],), r"(subprocess|commands)\.check_call"),
        (os.mkdir, ("{mark}",), r"posix\.mkdir"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_pickle_that_calls_anything_else_is_refused_by_name_and_runs_nothing(
    save, tmp_path, function, arguments, name
):
    mark = tmp_path / "ran"

    def fill(value):
        if isinstance(value, list):
            return [fill(item) for item in value]
        return value.format(mark=mark)

    evil = Call(function, *map(fill, arguments))
    # The attack itself is real: pickle would run it.
    pickle.loads(pickle.dumps(evil, protocol=2))
    assert mark.exists()
    mark.rmdir() if mark.is_dir() else mark.unlink()
    path = save({"conv1.weight": evil}, [])
    with pytest.raises(ValueError, match=rf"weights\.pth: refused: it asks for {name}"):
        read_arrays(path)
    assert not mark.exists()


def test_an_unknown_class_of_torch_is_refused_by_name(save, tmp_path):
    path = tmp_path / "module.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02ctorch.nn.modules.conv\nConv2d\n)R.")
    with pytest.raises(ValueError, match=r"asks for torch\.nn\.modules\.conv\.Conv2d"):
        read_arrays(path)


def test_a_pickle_cannot_change_what_the_next_file_is_read_with():
    # Sets an attribute on what it is given (a BUILD with slot state).
    rebuild, mark = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n", b"N}U\x04markK\x01s\x86b"
    assert torch_pickle._unpickle(rebuild + mark + b".").mark == 1
    assert not hasattr(torch_pickle._unpickle(rebuild + b"."), "mark")
    for name in (b"torch\nFloatStorage", b"collections\nOrderedDict"):
        with pytest.raises(ValueError, match=r"malformed pickle \((Attribute|Type)Error"):
            torch_pickle._unpickle(b"\x80\x02c" + name + b"\n" + mark + b".")


def test_items_that_a_pickle_puts_on_its_dict_are_not_called(save):
    array = np.ones(2, np.float32)
    saved = Call(collections.OrderedDict, [("a", dense("0", array))], state={"items": 7})
    np.testing.assert_array_equal(read_arrays(save(saved, [Storage("0", array)]))["a"], array)


@pytest.mark.parametrize("keep", [0.3, 0.7, 0.99])
def test_a_truncated_file_is_reported_as_such(save, keep):
    array = np.arange(1000, dtype=np.float32)
    path = save({"a": dense("0", array)}, [Storage("0", array)])
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(ValueError, match="truncated; copy it again"):
        read_arrays(path)


def test_a_flipped_byte_is_found_by_the_archives_checksum(save):
    array = np.arange(1000, dtype=np.float32)
    path = save({"a": dense("0", array)}, [Storage("0", array)])
    content = bytearray(path.read_bytes())
    content[content.index(array.tobytes()) + 17] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="damaged archive"):
        read_arrays(path)


def test_other_files_are_told_apart(tmp_path):
    path = tmp_path / "old.pth"
    path.write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2) + b"rest")
    with pytest.raises(ValueError, match=r"format before 1\.6.*save it again"):
        read_arrays(path)
    path.write_bytes(b"<html>404</html>")
    with pytest.raises(ValueError, match=r"not a file that torch\.save wrote"):
        read_arrays(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ValueError, match=r"without one data\.pkl"):
        read_arrays(path)


def test_a_storage_with_fewer_bytes_than_announced_is_refused(save):
    storage = Storage("0", np.ones(3, np.float32), numel=4)
    with pytest.raises(ValueError, match="too short: 12 bytes, 16 announced"):
        read_arrays(save({"a": tensor(storage, 0, (4,), (1,))}, [storage]))


def test_a_storage_that_is_absent_is_named(save):
    storage = Storage("7", np.ones(3, np.float32))
    with pytest.raises(ValueError, match="lacks the storage archive/data/7"):
        read_arrays(save({"a": tensor(storage, 0, (3,), (1,))}, []))


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [(1, (2, 3), (3, 1)), (0, (3, 3), (3, 1)), (0, (2,), (6,)), (6, (), ())],
)
def test_a_tensor_that_reaches_beyond_its_storage_is_refused(save, offset, shape, strides):
    storage = Storage("0", np.ones(6, np.float32))
    with pytest.raises(ValueError, match=r"tensor 'a'.*the storage is too short"):
        read_arrays(save({"a": tensor(storage, offset, shape, strides)}, [storage]))


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [(-1, (2,), (1,)), (5, (2,), (-1,)), (0, (-2,), (1,)), (0, (2, 2), (1,)), (0, (1.0,), (1,))],
)
def test_a_tensor_of_impossible_geometry_is_refused(save, offset, shape, strides):
    storage = Storage("0", np.ones(6, np.float32))
    with pytest.raises(ValueError, match="malformed tensor 'a'"):
        read_arrays(save({"a": tensor(storage, offset, shape, strides)}, [storage]))


@pytest.mark.parametrize(
    "program", [b"", b"\x80\x02", b"\x80\x02R.", b"garbage", b"\x80\x02K\x01Q."]
)
def test_a_malformed_pickle_is_one_clear_error(tmp_path, program):
    path = tmp_path / "bad.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", program)
    with pytest.raises(ValueError, match=r"bad\.pth: "):
        read_arrays(path)


def test_a_pickle_that_would_exhaust_memory_or_the_stack_is_refused(tmp_path):
    numbers_at_will = b"\x80\x02Nr\xff\xff\xff\xff."  # room for 2^32 objects
    nested = b"\x80\x02})" + b"\x85" * 200_000 + b"Ns."  # hashed, overflows the stack
    endless = b"\x80\x02" + b"]" * (9 << 20) + b"."
    for program, message in (
        (numbers_at_will, "refused: its objects are not numbered in order"),
        (nested, "refused: more than 50,000 tuples"),
        (endless, r"a pickle of 9,437,187 bytes, more than the 8,388,608"),
    ):
        with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data.pkl", program)
        with pytest.raises(ValueError, match=rf"bomb\.pth: {message}"):
            read_arrays(tmp_path / "bomb.pth")


def test_keys_of_optimizers_and_old_lists_of_pairs_are_read(tmp_path):
    pairs = b"ccollections\nOrderedDict\n](](X\x01\0\0\0aK\x02ee\x85R"
    program = b"}(K\x00}X\x04\0\0\0stepK\x07sM\x01\x01" + pairs + b"u."
    expected = {0: {"step": 7}, 257: {"a": 2}}
    assert torch_pickle._unpickle(b"\x80\x02" + program) == expected
