"""Keras's HDF5 files, read in a process of their own (skipped without h5py)."""

import importlib.util
import io
import zipfile
import zlib

import jax
import ml_dtypes
import numpy as np
import pytest

from cxr_jax import weights
from cxr_jax.models import resnet
from cxr_jax.weights.importers import keras
from cxr_jax.weights.importers.keras import read_hdf5

h5py = pytest.importorskip("h5py")

# Of each kind the first: the arrays of a convolution, then those of a batch norm, as Keras numbers.
ORDER = ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")
CODE = '{"class_name": "Lambda", "config": {"function": {"class_name": "__lambda__"}}}'


@pytest.fixture
def arrays(monkeypatch):
    """Of a ResNet-50 of one block in each of two stages, by Keras's names."""
    small = {"stage_sizes": (1, 1), "widths": (8, 16), "bottleneck": True}
    monkeypatch.setitem(resnet.VARIANTS, "50", small)
    shapes = {"conv1": (7, 7, 3, 8)}
    for stage, channels, width in ((2, 8, 8), (3, 32, 16)):
        shapes |= {
            f"conv{stage}_block1_0": (1, 1, channels, 4 * width),
            f"conv{stage}_block1_1": (1, 1, channels, width),
            f"conv{stage}_block1_2": (3, 3, width, width),
            f"conv{stage}_block1_3": (1, 1, width, 4 * width),
        }
    rng, arrays = np.random.default_rng(0), {}
    for name, shape in shapes.items():
        for place, variable in enumerate(ORDER):
            key = f"{name}_{'bn' if place > 1 else 'conv'}/{variable}"
            size = shape if variable == "kernel" else shape[-1:]
            arrays[key] = rng.uniform(0.5, 1.5, size).astype(np.float32)
    return arrays


def _legacy(file, arrays):
    """Keras 2: a group per layer, in it the variables by their names."""
    for key, array in arrays.items():
        file[f"{key.partition('/')[0]}/{key}:0"] = array


def _whole_legacy(file, arrays):
    file.attrs["model_config"] = CODE
    _legacy(file.create_group("model_weights"), arrays)
    file["optimizer_weights/adam/conv1_conv/kernel:0"] = np.ones(3)


def _numbered(file, arrays):
    """Keras 3: layers by class and number, their names as attributes, variables by number."""
    for number, layer in enumerate(dict.fromkeys(key.partition("/")[0] for key in arrays)):
        group = file.create_group(f"layers/resnet/layers/any_{number}/vars")
        group.attrs["name"] = layer
        names = [name for name in ORDER if f"{layer}/{name}" in arrays]
        for place, name in enumerate(names):
            group[str(place)] = arrays[f"{layer}/{name}"]
    file["optimizer/vars/0"] = np.ones(3)


def _named(file, arrays):
    """Keras 2.13's .weights.h5: layers by name, variables by number."""
    for layer in dict.fromkeys(key.partition("/")[0] for key in arrays):
        names = [name for name in ORDER if f"{layer}/{name}" in arrays]
        for place, name in enumerate(names):
            file[f"_layer_checkpoint_dependencies/{layer}/vars/{place}"] = arrays[f"{layer}/{name}"]


LAYOUTS = {
    "legacy.h5": _legacy,
    "whole.h5": _whole_legacy,
    "model.weights.h5": _numbered,
    "older.weights.h5": _named,
    "model.keras": _numbered,
}


def _write(path, fill):
    if path.suffix != ".keras":
        with h5py.File(path, "w") as file:
            fill(file)
        return
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        fill(file)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", CODE)
        archive.writestr("model.weights.h5", content.getvalue())


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_holds_the_encoder_of_the_npz(tmp_path, arrays, name):
    arrays["predictions/kernel"], arrays["predictions/bias"] = np.ones((64, 3)), np.ones(3)
    np.savez(tmp_path / "weights.npz", **arrays)
    _write(tmp_path / name, lambda file: LAYOUTS[name](file, arrays))
    expected = weights.load(f"keras:{tmp_path}/weights.npz")
    encoder = weights.load(f"keras:{tmp_path / name}")
    assert encoder.model == expected.model
    jax.tree.map(np.testing.assert_array_equal, encoder.variables, expected.variables)
    del arrays["conv2_block1_0_bn/gamma"]
    _write(tmp_path / name, lambda file: _legacy(file, arrays))
    with pytest.raises(ValueError, match=r"1 missing: conv2_block1_0_bn/gamma"):
        weights.load(f"keras:{tmp_path / name}")


def _virtual(file):
    layout = h5py.VirtualLayout((3,), "f4")
    layout[:] = h5py.VirtualSource("secret.h5", "a", (3,))
    file.create_virtual_dataset("conv1_conv/kernel", layout)


def _twice(file):
    file["a/conv1_conv/kernel"] = file["b/conv1_conv/kernel"] = np.ones(3)


def _cycle(file):
    file["layers/again"] = file.create_group("layers")


DAMAGED = {
    "elsewhere": (lambda file: file.__setitem__("a", h5py.ExternalLink("secret.h5", "/a")), "link"),
    "soft": (lambda file: file.__setitem__("a", h5py.SoftLink("/b")), "a is a link"),
    "raw": (
        lambda file: file.create_dataset("a/b", (3,), "f4", external=[("secret", 0, 12)]),
        "a/b lies in another file",
    ),
    "virtual": (_virtual, "kernel lies in another file"),
    "unwritten": (
        lambda file: file.create_dataset("a/b", (10**13,), "f4", chunks=(1024,)),
        "b takes 40,000,000,000,000 bytes, more than weights in a file of its size do",
    ),
    "cycle": (_cycle, "layers/again is in it twice"),
    "twice": (_twice, "two arrays are called conv1_conv/kernel"),
}


@pytest.mark.parametrize("fault", DAMAGED)
@pytest.mark.parametrize("suffix", ["h5", "keras"])
def test_what_lies_outside_of_the_file_is_not_opened(tmp_path, fault, suffix):
    fill, message = DAMAGED[fault]
    path = tmp_path / f"{fault}.{suffix}"
    _write(path, fill)
    with pytest.raises(ValueError, match=rf"{fault}\.{suffix}: .*{message}"):
        read_hdf5(path)


def test_damaged_files_are_named(tmp_path, arrays):
    for name in ("model.weights.h5", "model.keras"):
        _write(tmp_path / name, lambda file: _numbered(file, arrays))
        content = (tmp_path / name).read_bytes()
        for part in (content[: len(content) // 2], b"<html>404</html>", b""):
            (tmp_path / name).write_bytes(part)
            with pytest.raises(ValueError, match=rf"{name}: not a sound file of Keras's arrays"):
                weights.load(f"keras:{tmp_path / name}")
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
        archive.writestr("config.json", CODE)
    with pytest.raises(ValueError, match=r"no model\.weights\.h5 in it"):
        weights.load(f"keras:{tmp_path}/model.keras")


def _partly_written(file):
    file.create_dataset("a/b", (4096,), "f4", chunks=(1024,))[:1024] = 1


def _bomb(file):
    file.create_dataset("a/b", data=np.zeros(17 << 20, np.float32), chunks=True, compression="gzip")


STRANGE = {
    "partly": (_partly_written, "announces 16,384 bytes and holds fewer"),
    "unwritten": (lambda file: file.create_dataset("a/b", (9,), "f4"), "36 bytes and holds fewer"),
    "type": (lambda file: file.__setitem__("a/b", np.dtype("f4")), "neither a group nor an array"),
    "references": (
        lambda file: file.create_dataset("a/b", (3,), h5py.ref_dtype),
        "a/b holds no numbers of a kind",
    ),
    "bomb": (_bomb, "a/b takes 71,303,168 bytes, more than weights in a file of its size"),
    "words": (lambda file: file.__setitem__("a/b", ["x"]), "a/b holds no numbers of a kind"),
    "nothing": (lambda file: file.__setitem__("a/b", h5py.Empty("f4")), "a/b holds nothing"),
    "packed": (
        lambda file: file.create_dataset("a/b", data=np.ones(99), compression="lzf"),
        "a/b is packed in a way that is not read here",
    ),
}


@pytest.mark.parametrize("fault", STRANGE)
def test_what_keras_does_not_write_is_refused(tmp_path, fault):
    fill, message = STRANGE[fault]
    _write(tmp_path / "x.h5", fill)
    with pytest.raises(ValueError, match=message):
        read_hdf5(tmp_path / "x.h5")


def test_a_chunk_that_unfolds_to_gigabytes_is_refused(tmp_path):
    packer = zlib.compressobj(9)
    blocks = [packer.compress(bytes(16 << 20)) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2)]

    def fill(file):
        dataset = file.create_dataset("a/b", (1024,), "f4", chunks=(1024,), compression="gzip")
        dataset.id.write_direct_chunk((0,), blocks[0] + blocks[1] * 100)

    _write(tmp_path / "x.h5", fill)
    with pytest.raises(ValueError, match=r"x\.h5: not a sound file of Keras's arrays"):
        read_hdf5(tmp_path / "x.h5")


def test_a_file_on_which_hdf5_crashes_or_never_ends_is_named(tmp_path, arrays, monkeypatch):
    path = tmp_path / "model.weights.h5"
    _write(path, lambda file: _numbered(file, arrays))
    (tmp_path / "crash.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    monkeypatch.setattr(keras, "_CHILD", tmp_path / "crash.py")
    with pytest.raises(ValueError, match=r"model\.weights\.h5: .*HDF5 crashed on it, signal 11"):
        read_hdf5(path)
    (tmp_path / "loop.py").write_text("while True: pass")
    monkeypatch.setattr(keras, "_CHILD", tmp_path / "loop.py")
    monkeypatch.setattr(keras, "SECONDS", 1)
    with pytest.raises(ValueError, match=r"model\.weights\.h5: .*did not come to its end in 1 s"):
        read_hdf5(path)


def test_a_heap_that_has_no_end_is_refused(tmp_path, arrays, monkeypatch):
    """Its objects are said to take nothing: HDF5 may loop for ever."""
    path = tmp_path / "model.weights.h5"
    _write(path, lambda file: _numbered(file, arrays))
    content = bytearray(path.read_bytes())
    start = content.index(b"GCOL") + 16
    content[start : start + 4000] = bytes(4000)
    path.write_bytes(content)
    monkeypatch.setattr(keras, "SECONDS", 2)
    with pytest.raises(ValueError, match=r"weights\.h5: not a sound file of Keras's arrays"):
        read_hdf5(path)


def test_without_h5py_the_error_names_the_extra(tmp_path, monkeypatch):
    (tmp_path / "x.keras").write_bytes(b"PK")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"x\.keras: .*h5py: pip install -e '\.\[keras\]'"):
        weights.load(f"keras:{tmp_path}/x.keras")


def test_paths_do_not_grow_without_end(tmp_path):
    _write(tmp_path / "x.h5", lambda file: file.create_group("/".join(["a"] * 501)))
    with pytest.raises(ValueError, match="a path in it is longer than 1,000 letters"):
        read_hdf5(tmp_path / "x.h5")


def _all_kinds(file):
    rng = np.random.default_rng(0)
    for kind in ("i1", "u1", ">i2", "<u4", "i8", "f2", ">f2", "f4", ">f4", "f8", ">f8"):
        file[f"kinds/{kind}"] = rng.integers(0, 99, (3, 2, 4)).astype(kind)
    file["kinds/bfloat16"] = np.arange(6, dtype=ml_dtypes.bfloat16).reshape(2, 3)
    file["kinds/scalar"], file["kinds/empty"] = np.float32(3), np.zeros((0, 3), np.float32)
    for number in range(700):  # trees of two levels
        file[f"many/{number}"] = np.int64(number)
    chunked = rng.random((70, 33, 5)).astype(np.float32)
    for number, packed in enumerate(({}, {"compression": 4}, {"shuffle": True, "compression": 9})):
        chunks = (8, 16, 5) if number else True
        file.create_dataset(f"chunked/{number}", data=chunked, chunks=chunks, **packed)
    file.create_dataset("chunked/many", data=rng.random(40_000), chunks=(64,), maxshape=(None,))
    for name, label in LABELS.items():
        group = file.create_group(f"{name}/vars")
        group.attrs["name"] = label
        group.attrs.update({f"other {number}": "text" for number in range(7)})
        group["0"] = np.ones(2)


LABELS = {"x": "text", "y": "Ünicode", "z": np.bytes_(b"bytes")}


def test_arrays_are_those_that_h5py_reads(tmp_path):
    path = tmp_path / "kinds.h5"
    _write(path, _all_kinds)
    found = read_hdf5(path)
    with h5py.File(path) as file:
        for group in ("kinds", "many", "chunked"):
            for name, dataset in file[group].items():
                array, expected = found[f"{group}/{name}"], dataset[()]
                dtype = ml_dtypes.bfloat16 if name == "bfloat16" else dataset.dtype
                assert (array.dtype, array.shape) == (dtype, expected.shape)
                assert array.tobytes() == expected.tobytes()
    assert {"text/0", "Ünicode/0", "bytes/0"} <= set(found)


def test_files_of_newer_formats_are_read(tmp_path):
    with h5py.File(tmp_path / "new.h5", "w", libver="latest") as file:
        file["a/b"] = np.arange(3)
    np.testing.assert_array_equal(read_hdf5(tmp_path / "new.h5")["a/b"], np.arange(3))
