"""What is wrong with a file, for every source in the folder: a new one is tested by being there."""

import json
import pickle
import re
import struct
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from cxr_jax import weights
from cxr_jax.models import densenet, resnet, swin
from cxr_jax.weights import importers
from cxr_jax.weights.importers import _vit

# A folder, and a name of the hub: test_load.py, test_torch_vit.py.
SOURCES = sorted(set(importers.sources()) - {"workdir", "hf", "huggingface"})
PAGE = (Path(__file__).parents[2] / "docs/weights.md").read_text().partition("## Preprocessing")[2]
ROWS = re.findall(r"^\| ([\w, ]+) \| [^|]+ \| (\w+)", PAGE, re.MULTILINE)
SQUARES = {name: square for names, square in ROWS for name in names.split(", ")}
SMALL_VIT = {"name": "vit", "variant": "64x2", "patch": 8, "image_size": 32}


class Evil:
    """Unpickled as pickle does it, makes the folder "ran"."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return Path.mkdir, (self.mark,)


def _torch_zip(path, program):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", program)


def _safetensors(path, tensors, size=64):
    """With the offsets in `tensors`, which no writer would write, over `size` bytes."""
    header = {
        name: {"dtype": "F32", "shape": [(end - start) // 4], "data_offsets": [start, end]}
        for name, (start, end) in tensors.items()
    }
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(size))


def _cut(path, write):
    write(path, {"a.weight": np.ones(1000, np.float32), "b.weight": np.ones(9, np.float32)})
    path.write_bytes(path.read_bytes()[:-300])


def _huge_npz(path):
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (10000000000000,), }\n"
    with zipfile.ZipFile(path, "w") as archive:
        magic = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header))
        archive.writestr("conv1.weight.npy", magic + header)


DAMAGED = {
    "code.pth": lambda path: _torch_zip(path, pickle.dumps({"a": Evil(path.parent / "ran")})),
    "code.npz": lambda path: np.savez(path, a=np.array([Evil(path.parent / "ran")])),
    "module.ckpt": lambda path: _torch_zip(path, b"\x80\x02ctorch.nn\nLinear\n)R."),
    "cut.npz": lambda path: _cut(path, lambda path, arrays: np.savez(path, **arrays)),
    "cut.safetensors": lambda path: _cut(path, lambda path, arrays: save_file(arrays, path)),
    "overlap.safetensors": lambda path: _safetensors(path, {"a": (0, 32), "b": (16, 64)}),
    "outside.safetensors": lambda path: _safetensors(path, {"a": (0, 32), "b": (32, 99)}),
    "backwards.safetensors": lambda path: _safetensors(path, {"a": (32, 0)}),
    "huge.npz": _huge_npz,
    "page.pth": lambda path: path.write_bytes(b"<html>404</html>"),
    "other.npz": lambda path: np.savez(path, **{"bert.layer.0.weight": np.ones(3, np.float32)}),
    "text.npz": lambda path: np.savez(path, **{"conv1.weight": np.array(["a"])}),
    "nothing.npz": lambda path: np.savez(path),
}


@pytest.mark.parametrize("source", SOURCES)
def test_what_no_source_can_read_is_refused_by_name_and_runs_nothing(tmp_path, source):
    for name, write in DAMAGED.items():
        write(tmp_path / name)
        with pytest.raises(ValueError, match=re.escape(name)):
            weights.load(f"{source}:{tmp_path / name}")
    assert not (tmp_path / "ran").exists()
    with pytest.raises(FileNotFoundError, match="absent"):
        weights.load(f"{source}:{tmp_path}/absent.pth")
    pickle.loads(pickle.dumps(Evil(tmp_path / "ran")))  # the attack itself is real
    assert (tmp_path / "ran").exists()


@pytest.fixture(scope="module")
def layouts():
    """By source: (a whole file of it in small, a key that it uses)."""
    pytest.importorskip("torch")
    from tests.weights import layouts, torch_cnn, torch_vit

    net, vit = torch_cnn.SmallResNet().state_dict(), torch_vit.ViT()
    scaled, clip = torch_vit.ViT(layer_scale=True), torch_vit.ViT(clip=True, eps=1e-5)
    dense = torch_cnn.DenseNet((1, 2)).state_dict()
    keras = torch_cnn.KerasResNet50((1, 1), (8, 16)).arrays()
    ours = weights.random_encoder(SMALL_VIT, 32, seed=0)
    leaves = jax.tree_util.tree_leaves_with_path(ours.variables)
    dinov2 = torch_vit.hugging_face_dinov2(scaled)
    grey = torch_cnn.SmallResNet(channels=1).state_dict()
    registers = torch_vit.timm(torch_vit.ViT(layer_scale=True, registers=2))
    conv = "layer2.0.conv2.weight"
    return {
        "torchvision": (net, conv),
        "torchvision_v1": (net, conv),
        "lightly": (torch_cnn.lightly(net), "backbone.5.0.conv2.weight"),
        "keras": (keras, "conv2_block1_2_conv/kernel"),
        "timm": ({"model": torch_vit.timm(vit)}, "blocks.1.mlp.fc2.weight"),
        "dinov2": (dinov2, "encoder.layer.1.mlp.fc2.weight"),
        "rad_dino": (dinov2, "encoder.layer.1.mlp.fc2.weight"),
        "cxformer": (dinov2, "encoder.layer.1.mlp.fc2.weight"),
        "chexfound": (layouts.chexfound(registers), "backbone.blocks.1.mlp.fc2.weight"),
        "dinov3": (layouts.dinov3(), "layer.1.attention.k_proj.weight"),
        "siglip": (layouts.siglip(), "vision_model.encoder.layers.1.self_attn.k_proj.weight"),
        "medsiglip": (layouts.siglip(), "vision_model.head.mlp.fc1.weight"),
        "eva_x": (layouts.eva_x(), "blocks.1.attn.k_proj.weight"),
        "ark_plus": (layouts.ark_plus(), "module.layers.1.blocks.0.attn.qkv.weight"),
        "mrm": (layouts.mae(torch_vit.timm(vit)), "blocks.1.mlp.fc2.weight"),
        "medmae": (layouts.mae(torch_vit.timm(vit)), "blocks.1.mlp.fc2.weight"),
        "biovil": (layouts.biovil(net), f"encoder.encoder.{conv}"),
        "clip": (torch_vit.openai_clip(clip), "visual.transformer.resblocks.1.mlp.c_fc.weight"),
        "biomedclip": (
            layouts.biomedclip(torch_vit.timm(vit)),
            "visual.trunk.blocks.1.mlp.fc2.weight",
        ),
        "chexzero": (torch_vit.openai_clip(clip), "visual.transformer.resblocks.1.mlp.c_fc.weight"),
        "refers": (torch_vit.refers(vit), "transformer.encoder.layer.1.ffn.fc1.weight"),
        "moco": (torch_cnn.moco(net), f"module.encoder_q.{conv}"),
        "moco_cxr": (torch_cnn.moco(net), f"module.encoder_q.{conv}"),
        "s2mts2": (torch_cnn.moco(dense), "module.encoder_q.features.transition1.conv.weight"),
        "convirt": (torch_cnn.convirt(net), conv),
        "gloria": (torch_cnn.gloria(net), f"gloria.img_encoder.model.{conv}"),
        "torchxrayvision": ({f"model.{k}": t for k, t in grey.items()}, f"model.{conv}"),
        "safetensors": (
            {".".join(entry.key for entry in path): np.asarray(leaf) for path, leaf in leaves},
            "params.block_1.fc2.kernel",
        ),
    }


def test_every_source_has_a_layout_here(layouts):
    assert sorted(layouts) == SOURCES


@pytest.fixture
def file_of(layouts, tmp_path, monkeypatch):
    """file_of(source) -> (its file as saved, the tensors in it, a key that it uses, load)."""
    import torch

    monkeypatch.setitem(_vit.HEADS, (64, 2), 1)
    monkeypatch.setitem(densenet.VARIANTS, "121", (1, 2))
    monkeypatch.setitem(swin.VARIANTS, "T", (12, (1, 1), (1, 3)))
    small = {"stage_sizes": (1, 1), "widths": (8, 16)}
    monkeypatch.setitem(resnet.VARIANTS, "18", small)
    monkeypatch.setitem(resnet.VARIANTS, "50", small | {"bottleneck": True})
    facts = {"name": "mine", "model": SMALL_VIT, "image_size": 32}
    (tmp_path / "cxr_jax.json").write_text(json.dumps(facts))  # only ours reads it

    def build(source):
        saved, key = layouts[source]

        def copied(value):
            if isinstance(value, dict):
                return {name: copied(item) for name, item in value.items()}
            return value if isinstance(value, int | str) else torch.tensor(np.array(value))

        def load(saved):
            torch.save(saved, tmp_path / "weights.pth")
            return weights.load(f"{source}:{tmp_path / 'weights.pth'}")

        saved = copied(saved)
        nested = (value for value in saved.values() if isinstance(value, dict) and key in value)
        return saved, next(nested, saved), key, load

    return build


@pytest.mark.parametrize("source", SOURCES)
def test_a_file_of_halves_is_read_as_what_it_rounds_to(file_of, source):
    saved, tensors, _, load = file_of(source)
    encoder = load(saved)
    assert encoder.fit == SQUARES[source]  # as docs/weights.md has it
    whole = encoder.variables
    for number, (key, tensor) in enumerate(tensors.items()):
        if tensor.is_floating_point():
            tensors[key] = tensor.half() if number % 2 else tensor.bfloat16()
    half = load(saved).variables
    for exact, rounded in zip(jax.tree.leaves(whole), jax.tree.leaves(half), strict=True):
        assert rounded.dtype == np.float32
        # Sums of two, as Keras's biases into means, round twice.
        error = np.abs(np.asarray(exact) - np.asarray(rounded)).max()
        assert error <= 2**-7 * np.abs(exact).max()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(half))


@pytest.mark.parametrize("source", SOURCES)
def test_wrong_tensors_keys_and_architectures_are_named(file_of, layouts, source):
    import torch

    saved, tensors, key, load = file_of(source)
    whole = tensors[key]

    tensors[key] = whole[..., None]
    with pytest.raises(ValueError, match=r"1 of another shape: .*" + re.escape(_last(key))):
        load(saved)
    tensors[key] = torch.full_like(whole, torch.nan)
    with pytest.raises(ValueError, match=r"1 not finite: .*" + re.escape(_last(key))):
        load(saved)
    tensors[key] = whole

    tensors["surprise.weight"] = torch.ones(2)
    with pytest.raises(ValueError, match=r"weights\.pth: .*unexpected.*surprise\.weight"):
        load(saved)
    del tensors["surprise.weight"]

    with pytest.raises(ValueError, match=r"weights\.pth: .*'checkpoint'"):
        load({"checkpoint": saved})
    with pytest.raises(ValueError, match=r"weights\.pth: .*net\."):
        load({f"net.{name}": tensor for name, tensor in tensors.items()})
    with pytest.raises(ValueError, match=r"weights\.pth: .*(missing|no )"):
        load(dict(list(tensors.items())[::2]))
    other = layouts["refers" if source != "refers" else "torchvision"][0]
    with pytest.raises(ValueError, match=r"weights\.pth: "):
        load(other)


def _last(key):
    return ".".join(key.split(".")[-2:])


def test_dinov3_in_its_owners_layout_is_what_transformers_says(layouts, tmp_path):
    theirs = {key: tensor.numpy() for key, tensor in layouts["dinov3"][0].items()}
    own = {"rope_embed.periods": np.ones(16, np.float32), "local_cls_norm.weight": np.ones(64)}
    names = {"cls_token": "cls_token", "mask_token": "mask_token"}
    names |= {"register_tokens": "storage_tokens", "patch_embeddings": "patch_embed.proj"}
    for key, array in theirs.items():
        head, _, rest = key.partition(".")
        if head == "embeddings":
            name, _, leaf = rest.partition(".")
            own[".".join(filter(None, (names[name], leaf)))] = array
        elif head == "norm":
            own[key] = array
        elif "attention" not in key or "o_proj" in key:
            for old, new in (
                *(("attention.o_proj", "attn.proj"), ("layer_scale1.lambda1", "ls1.gamma")),
                *(("layer_scale2.lambda1", "ls2.gamma"), ("mlp.gate_proj", "mlp.w1")),
                *(("mlp.up_proj", "mlp.w2"), ("mlp.down_proj", "mlp.w3")),
            ):
                rest = rest.replace(old, new)
            own[f"blocks.{rest}"] = array
    for block in (0, 1):
        q, k, v = (theirs[f"layer.{block}.attention.{part}_proj.weight"] for part in "qkv")
        q_bias, v_bias = (theirs[f"layer.{block}.attention.{part}_proj.bias"] for part in "qv")
        here = f"blocks.{block}.attn.qkv"
        own[f"{here}.weight"] = np.concatenate([q, k, v])
        own[f"{here}.bias"] = np.concatenate([q_bias, np.full(64, 7), v_bias])
        own[f"{here}.bias_mask"] = np.repeat([1, 0, 1], 64)
    read = []
    for arrays in (theirs, own):
        np.savez(tmp_path / "weights.npz", **arrays)
        read.append(weights.load(f"dinov3:{tmp_path / 'weights.npz'}"))
    assert read[0].model == read[1].model
    jax.tree.map(np.testing.assert_array_equal, *(encoder.variables for encoder in read))
    own["blocks.1.attn.qkv.bias_mask"] = np.ones(192)
    np.savez(tmp_path / "weights.npz", **own)
    with pytest.raises(ValueError, match=r"1\.attn\.qkv\.bias: the bias of keys is not masked"):
        weights.load(f"dinov3:{tmp_path / 'weights.npz'}")
