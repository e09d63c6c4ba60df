"""Nothing that is read is run: the source unpickles nothing, nor does loading a stranger's run."""

import ast
import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_jax import weights
from cxr_jax.training import checkpoint
from cxr_jax.training.step import TrainState
from cxr_jax.weights.arrays import read_arrays
from cxr_jax.weights.encoder import random_encoder
from data_builders.medmnist_cxr import medmnist_cxr_dataset_builder as medmnist

ROOT = Path(__file__).parents[2]
# Called by a full name ("np.load") or imported by it; `load` of NumPy is judged by its arguments.
FORBIDDEN = {
    *(
        "eval",
        "exec",
        "compile",
        "__import__",
        "os.system",
        "os.popen",
        "torch.load",
        "joblib.load",
    ),
    *("pickle.load", "pickle.loads", "cloudpickle.load", "cloudpickle.loads", "dill.load"),
    *(
        "dill.loads",
        "marshal.load",
        "marshal.loads",
        "shelve.open",
        "yaml.load",
        "yaml.unsafe_load",
    ),
    *(
        "yaml.full_load",
        "yaml.load_all",
        "pandas.read_pickle",
        "pd.read_pickle",
        "runpy.run_module",
    ),
    *("jsonpickle.decode", "pickle.Unpickler", "pickle._Unpickler", "runpy.run_path"),
}
# Where one of them stands for a reason.
ALLOWED = {
    # Only the names that tensors need are known to it (tests/weights/test_torch_pickle.py).
    ("cxr_jax/weights/torch_pickle.py", "pickle.Unpickler"),
    # A config is a program that the user names on the command line.
    ("cxr_jax/config.py", "runpy.run_path"),
}


def sources():
    for folder in ("cxr_jax", "data_builders", "configs"):
        yield from sorted((ROOT / folder).rglob("*.py"))
    yield ROOT / "run.py"


def uses(text):
    """The forbidden names that a module uses, also under another name, and unsafe np.load."""
    tree = ast.parse(text)
    known = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            known |= {alias.asname or alias.name: alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            module = node.module or ""
            known |= {alias.asname or alias.name: f"{module}.{alias.name}" for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute):
            head, dot, rest = ast.unparse(node).partition(".")
            name = known.get(head, head) + dot + rest
            if name in FORBIDDEN:
                yield name
        if isinstance(node, ast.Call):
            for keyword in node.keywords:
                safe = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
                if keyword.arg in ("allow_pickle", "shell", "weights_only") and not safe:
                    yield f"{ast.unparse(node.func)}({keyword.arg}=…)"


def test_the_source_unpickles_and_evaluates_nothing():
    found = {
        (str(path.relative_to(ROOT)), name) for path in sources() for name in uses(path.read_text())
    }
    assert found == ALLOWED


@pytest.mark.parametrize(
    "text",
    [
        "import pickle\npickle.load(f)",
        "import pickle as p\nread = p.loads",
        "from pickle import loads as read\nread(b)",
        "import numpy as np\nnp.load(f, allow_pickle=True)",
        "import numpy as np\nnp.load(f, allow_pickle=trusted)",
        "import torch\ntorch.load(f, weights_only=True)",
        "eval(text)",
        "import yaml\nyaml.load(f, Loader=L)",
        "import subprocess\nsubprocess.run(c, shell=True)",
        "class U(__import__('pickle').Unpickler): pass",
    ],
)
def test_the_search_finds_every_way_to_write_it(text):
    assert list(uses(text))


class Canary:
    """Pickles as a call that makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def pickled_files(folder, canary):
    """Every kind of weights file with a pickle in it that would make `canary`."""
    code = pickle.dumps(Canary(canary), protocol=2)
    objects = io.BytesIO()
    np.save(objects, np.array([Canary(canary)], object), allow_pickle=True)
    contents = {
        "npy_in.npz": {"a.npy": objects.getvalue()},
        "raw_in.npz": {"a.npy": code, "a.pkl": code},
        "train.npz": {"train_images.npy": objects.getvalue(), "train_labels.npy": code},
        "new.pth": {"a/data.pkl": code, "a/data/0": b""},
        "new.ckpt": {"a/data.pkl": b"\x80\x02}X\1\0\0\0a" + code[2:-1] + b"s.", "a/data/0": b""},
    }
    for name, members in contents.items():
        with zipfile.ZipFile(folder / name, "w") as archive:
            for member, content in members.items():
                archive.writestr(member, content)
    for name in ("old.pth", "old.bin", "a.safetensors", "a.npz"):
        (folder / name).write_bytes(code)
    return sorted(folder.iterdir())


def test_a_pickle_in_any_weights_file_is_refused_and_not_run(tmp_path):
    canary, folder = tmp_path / "run", tmp_path / "files"
    folder.mkdir()
    pickle.loads(pickle.dumps(Canary(canary)))
    canary.rmdir()  # it does work where somebody unpickles it
    for path in pickled_files(folder, canary):
        with pytest.raises(ValueError):
            read_arrays(path)
        if path.suffix == ".npz":
            with pytest.raises(ValueError):
                medmnist.unpack(path, "train", 9, 28, 1, folder)
    assert not canary.exists()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The workdir of a pretraining, in miniature."""
    workdir = tmp_path_factory.mktemp("run")
    model = {"name": "vit", "variant": "64x1", "patch": 8, "image_size": 16}
    encoder = random_encoder(model, image_size=16, seed=0)
    config = {"experiment": "pretrain", "objective": {"name": "simclr"}, "image_size": 16}
    (workdir / "config.json").write_text(json.dumps(config | {"model": model}))
    state = TrainState(jnp.int32(7), {"w": jnp.ones(2)}, {}, (), jax.random.PRNGKey(0))
    with checkpoint.open_manager(workdir, 1) as manager:
        checkpoint.save(manager, state, encoder.variables, {}, config)
    return workdir


# Raises where something is unpickled or a program is started.
WATCHED = """
import sys
def watch(event, arguments):
    if event in ("pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "subprocess.Popen"):
        print("RUN", event, arguments)
import cxr_jax.training.checkpoint, orbax.checkpoint, jax
jax.devices()
sys.addaudithook(watch)
from cxr_jax import weights
try:
    print("loaded", weights.load(sys.argv[1]).name)
except ValueError as error:
    print("refused", error)
"""


def load_watched(workdir):
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, str(workdir)],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert not done.returncode, done.stderr
    return done.stdout


def test_a_strangers_run_is_loaded_without_unpickling_anything(run):
    said = load_watched(run)
    assert "loaded simclr step 7" in said and "RUN" not in said


def test_pickles_in_place_of_a_checkpoints_files_are_not_run(run, tmp_path):
    canary, copy = tmp_path / "run", tmp_path / "copy"
    code = pickle.dumps(Canary(canary))
    subprocess.run(["cp", "-r", run, copy], check=True)
    for path in copy.rglob("checkpoints/*/encoder/*"):
        if path.is_file():
            path.write_bytes(code)
    (copy / "checkpoints/7/encoder/checkpoint").write_bytes(code)
    assert "refused" in load_watched(copy)
    (copy / "checkpoints/7/sha256.json").unlink()  # a stranger leaves none, or one that fits
    said = load_watched(copy)
    assert "refused" in said and "is damaged" in said and "RUN" not in said
    assert not canary.exists()


CONFIGS = {
    "a model of another module": {"model": {"name": "os.system", "variant": "true"}},
    "a path for a model": {"model": {"name": "../../run", "variant": "18"}},
    "a builtin": {"model": {"name": "__init__", "variant": "18"}},
    "an object of YAML": {"model": {"name": "!!python/object/apply:os.system ['true']"}},
    "a list": {"model": ["vit"]},
    "text": {"model": "vit"},
    "numbers": {"model": 7},
    "an unknown field": {"model": {"name": "vit", "variant": "64x1", "patch": 8, "__class__": "x"}},
    "an absurd size": {"model": {"name": "vit", "variant": "64x1", "patch": 8, "image_size": 1e9}},
    "no objective": {"objective": None},
    "an experiment of nowhere": {"experiment": "os"},
    "sizes in words": {"image_size": "large"},
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_strangers_config_chooses_among_our_models_or_is_refused(run, tmp_path, case):
    config = json.loads((run / "config.json").read_text()) | CONFIGS[case]
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "checkpoints").symlink_to(run / "checkpoints")
    with pytest.raises(ValueError) as error:
        weights.load(str(tmp_path))
    assert str(tmp_path) in str(error.value)
