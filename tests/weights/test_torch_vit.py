"""ViTs of every layout against PyTorch (skipped without torch)."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from cxr_jax import weights
from cxr_jax.weights.encoder import ImageEncoder
from cxr_jax.weights.importers import _vit

torch = pytest.importorskip("torch")

from tests.weights import layouts, torch_vit  # noqa: E402 (needs torch)


@pytest.fixture(autouse=True)
def _heads(monkeypatch):
    """Of the small ViTs here, whose number no file tells."""
    monkeypatch.setitem(_vit.HEADS, (64, 2), 1)


IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGES = np.random.default_rng(0).uniform(size=(2, 32, 32, 1)).astype(np.float32)
CLIPS_OWN = {"clip": True, "eps": 1e-5}


def _assert_equal_features(spec, net, mean, std, images=IMAGES):
    with torch.no_grad():
        reference = net.features(torch.from_numpy(images.transpose(0, 3, 1, 2)), mean, std).numpy()
    encoder = weights.load(spec)
    ours = np.asarray(weights.features(encoder)(jnp.asarray(images)))
    assert ours.shape == reference.shape
    assert np.abs(ours - reference).max() < 1e-4 * np.abs(reference).max()
    return encoder


CASES = {
    "torchvision": ({}, torch_vit.torchvision, IMAGENET, 32),
    "clip": (
        CLIPS_OWN,
        torch_vit.openai_clip,
        ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
        32,
    ),
    "chexzero": (
        CLIPS_OWN,
        torch_vit.openai_clip,
        ((101.48761 / 255,) * 3, (83.43944 / 255,) * 3),
        32,
    ),
    "refers": ({}, torch_vit.refers, IMAGENET, 32),
    "dinov2": ({"layer_scale": True}, torch_vit.hugging_face_dinov2, IMAGENET, 224),
    "rad_dino": (
        {"layer_scale": True},
        torch_vit.hugging_face_dinov2,
        ((0.5307,) * 3, (0.2583,) * 3),
        518,
    ),
    "cxformer": ({"layer_scale": True}, torch_vit.hugging_face_dinov2, IMAGENET, 518),
    "chexfound": (
        {"layer_scale": True, "registers": 2},
        lambda net: layouts.chexfound(torch_vit.timm(net)),
        IMAGENET,
        32,
    ),
    "mrm": (
        {"pooling": "mean"},
        lambda net: layouts.mae(torch_vit.timm(net)),
        ((0.4978,) * 3, (0.2449,) * 3),
        32,
    ),
    "medmae": (
        {"pooling": "fc_norm"},
        lambda net: layouts.mae(torch_vit.timm(net)),
        ((0.5056,) * 3, (0.252,) * 3),
        32,
    ),
}


@pytest.mark.parametrize("source", CASES)
def test_features_equal_torchs(tmp_path, source):
    options, layout, (mean, std), size = CASES[source]
    net = torch_vit.ViT(**options)
    torch.save(layout(net), tmp_path / "weights.pt")
    encoder = _assert_equal_features(f"{source}:{tmp_path}/weights.pt", net, mean, std)
    assert (encoder.name, encoder.image_size) == ("weights", size)
    assert (encoder.model["variant"], encoder.model["patch"]) == ("64x2", 8)


@pytest.mark.parametrize(
    ("options", "layout"),
    [
        ({}, {}),
        ({"registers": 3, "layer_scale": True}, {"has_place": False}),
        ({"pooling": "fc_norm"}, {}),
        ({"class_token": False, "pooling": "mean"}, {}),
    ],
)
def test_timms_kinds_of_vit(tmp_path, options, layout):
    net = torch_vit.ViT(**options)
    checkpoint = {"model": torch_vit.timm(net, **layout), "epoch": 3}
    torch.save(checkpoint, tmp_path / "weights.pth")
    _assert_equal_features(f"timm:{tmp_path}/weights.pth", net, *IMAGENET)


@pytest.mark.parametrize("registers", [0, 2])
def test_an_image_of_another_size_and_a_folder_of_the_hub(tmp_path, registers):
    net = torch_vit.ViT(layer_scale=True, registers=registers)
    tensors = torch_vit.hugging_face_dinov2(net)
    save_file({key: t.numpy() for key, t in tensors.items()}, tmp_path / "model.safetensors")
    facts = {"image_mean": HALF[0], "image_std": HALF[1], "crop_size": {"height": 48, "width": 48}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(facts))
    images = np.random.default_rng(1).uniform(size=(2, 48, 24, 1)).astype(np.float32)
    encoder = _assert_equal_features(f"dinov2:{tmp_path}", net, *HALF, images)
    assert (encoder.name, encoder.image_size) == (tmp_path.name, 48)
    tensors = torch_vit.timm(net)
    tensors = {k.replace("reg_token", "register_tokens"): t for k, t in tensors.items()}
    torch.save(tensors | {"mask_token": torch.zeros(1, 64)}, tmp_path / "owners.pth")
    _assert_equal_features(f"dinov2:{tmp_path}/owners.pth", net, *IMAGENET, images)
    facts = {"pretrained_cfg": {"mean": HALF[0], "std": HALF[1], "input_size": [3, 40, 40]}}
    (tmp_path / "config.json").write_text(json.dumps(facts))
    net = torch_vit.ViT()
    tensors = torch_vit.timm(net) | {"head.weight": torch.zeros(9, 64)}
    save_file({key: t.numpy() for key, t in tensors.items()}, tmp_path / "model.safetensors")
    encoder = weights.load(f"timm:{tmp_path}")
    assert (encoder.model["mean"], encoder.image_size) == (HALF[0], 40)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is damaged: it is not JSON"):
        weights.load(f"timm:{tmp_path}")


def test_maps_equal_torchs_patch_tokens(tmp_path):
    net = torch_vit.ViT(layer_scale=True, registers=2)
    torch.save(torch_vit.hugging_face_dinov2(net), tmp_path / "weights.pt")
    encoder = weights.load(f"dinov2:{tmp_path}/weights.pt")._replace(image_size=48)
    images = np.random.default_rng(1).integers(0, 256, (2, 48, 48), np.uint8)
    tokens = []
    net.norm.register_forward_hook(lambda *given: tokens.append(given[2]))
    with torch.no_grad():
        net.features(torch.from_numpy(images / np.float32(255))[:, None], *IMAGENET)
    wanted = tokens[0][:, 3:].reshape(2, 6, 6, 64).numpy()
    ours = ImageEncoder(encoder).maps(images)
    np.testing.assert_allclose(ours, wanted, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize(
    ("source", "layout", "facts"),
    [
        ("torchvision", torch_vit.torchvision, {"num_attention_heads": 4}),
        ("refers", torch_vit.refers, {"num_attention_heads": 4}),
        ("timm", torch_vit.timm, {"model_args": {"num_heads": 4}}),
        ("dinov2", torch_vit.hugging_face_dinov2, {"num_attention_heads": 4}),
    ],
)
def test_heads_are_those_of_the_json_or_the_file_is_refused(tmp_path, source, layout, facts):
    net = torch_vit.ViT(heads=4, depth=3, layer_scale=source == "dinov2")
    torch.save(layout(net), tmp_path / "weights.pt")
    spec = f"{source}:{tmp_path}/weights.pt"
    with pytest.raises(ValueError, match=r"width 64 and 3 blocks .*number of its heads.*config"):
        weights.load(spec)
    (tmp_path / "config.json").write_text(json.dumps(facts))
    assert _assert_equal_features(spec, net, *IMAGENET).model["heads"] == 4


@pytest.mark.parametrize(
    ("source", "name", "facts", "message"),
    [
        ("dinov2", "config.json", {"hidden_act": "silu"}, "hidden_act is 'silu'"),
        ("dinov2", "config.json", {"use_swiglu_ffn": True}, "use_swiglu_ffn is True"),
        ("dinov2", "config.json", {"num_attention_heads": "6"}, "'6' for num_attention_heads"),
        ("dinov2", "preprocessor_config.json", {"do_normalize": False}, "do_normalize is False"),
        ("timm", "config.json", {"architecture": "vit_base_patch16_rope_224"}, "rope_224 is not"),
        ("timm", "config.json", {"model_args": {"qk_norm": True}}, "model_args holds qk_norm"),
        ("timm", "config.json", {"model_args": {"act_layer": "silu"}}, "holds act_layer 'silu'"),
        ("timm", "config.json", {"pretrained_cfg": {"crop_mode": "x"}}, "another kind than timm's"),
    ],
)
def test_what_json_says_and_is_not_done_is_refused(tmp_path, source, name, facts, message):
    net = torch_vit.ViT(layer_scale=True)
    tensors = (torch_vit.timm if source == "timm" else torch_vit.hugging_face_dinov2)(net)
    torch.save(tensors, tmp_path / "weights.pt")
    (tmp_path / name).write_text(json.dumps(facts))
    with pytest.raises(ValueError, match=message):
        weights.load(f"{source}:{tmp_path}/weights.pt")


def test_the_older_names_of_torchvisions_mlp(tmp_path):
    net = torch_vit.ViT()
    for name, layers in (("new", ()), ("old", ("linear_1", "linear_2"))):
        torch.save(torch_vit.torchvision(net, *layers), tmp_path / f"{name}.pth")
    new, old = (weights.load(str(tmp_path / f"{name}.pth")) for name in ("new", "old"))
    block = "block_1"
    for layer in ("fc1", "fc2"):
        kernels = [e.variables["params"][block][layer]["kernel"] for e in (new, old)]
        np.testing.assert_array_equal(*kernels)


def _load(tmp_path, source, tensors):
    torch.save(tensors, tmp_path / "weights.pth")
    return weights.load(f"{source}:{tmp_path / 'weights.pth'}")


def test_half_a_vit_is_refused_by_name(tmp_path):
    tensors = torch_vit.timm(torch_vit.ViT(width=384, depth=6, patch=32, grid=1))
    with pytest.raises(ValueError, match=r"ViT-S of width 384 and 12 blocks: blocks missing: \[6,"):
        _load(tmp_path, "timm", tensors)
    tensors = torch_vit.timm(torch_vit.ViT())
    gap = {key: tensor for key, tensor in tensors.items() if not key.startswith("blocks.0.")}
    with pytest.raises(ValueError, match=r"weights\.pth: .*blocks missing: \[0\]"):
        _load(tmp_path, "timm", gap)
    del tensors["blocks.1.mlp.fc2.bias"], tensors["norm.weight"]
    tensors["blocks.0.mlp.fc1.weight"] = torch.zeros(3, 64)
    tensors["blocks.0.attn.q_norm.weight"] = torch.zeros(64)
    tensors["pos_embed"][0, 3, 5] = torch.nan
    with pytest.raises(ValueError, match=r"does not fit ViT-64x2/8") as error:
        _load(tmp_path, "timm", tensors)
    for part in (
        "2 missing: blocks.1.mlp.fc2.bias, norm.weight",
        "1 unexpected: blocks.0.attn.q_norm.weight",
        "blocks.0.mlp.fc1.weight (3, 64) where (256, 64) is expected",
        "1 not finite: pos_embed",
    ):
        assert part in str(error.value)


def test_parts_that_do_not_fit_together_are_named(tmp_path):
    tensors = torch_vit.hugging_face_dinov2(torch_vit.ViT(layer_scale=True))
    key = "encoder.layer.1.attention.attention.key.weight"
    tensors[key] = torch.zeros(64, 60)
    with pytest.raises(ValueError, match=rf"of another shape: .*{key} \(64, 60\)"):
        _load(tmp_path, "dinov2", tensors)


@pytest.mark.parametrize(
    ("source", "tensors", "message"),
    [
        ("timm", {"a": torch.ones(2)}, "not this kind of ViT: no patch_embed.proj.weight"),
        ("clip", {"a": torch.ones(2)}, r"no key begins with 'visual\.' \(keys: a\)"),
        ("refers", {"a": torch.ones(2)}, r"no key begins with 'transformer\.'"),
        (
            "clip",
            {"visual.attnpool.k_proj.weight": torch.ones(2)},
            "a CLIP with a ResNet of its own kind",
        ),
        ("clip", {"visual.proj": torch.ones(2, 2), "bert.x": torch.ones(2)}, "unexpected.*bert.x"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path, source, tensors, message):
    with pytest.raises(ValueError, match=message):
        _load(tmp_path, source, tensors)


def test_a_prefixed_vit_is_refused_with_the_prefix(tmp_path):
    tensors = {f"backbone.{key}": t for key, t in torch_vit.timm(torch_vit.ViT()).items()}
    with pytest.raises(ValueError, match=r"carry the prefix 'backbone\.'"):
        _load(tmp_path, "timm", tensors)
    tensors = {f"module.{key}": t for key, t in torch_vit.torchvision(torch_vit.ViT()).items()}
    with pytest.raises(ValueError, match=r"carry the prefix 'module\.'"):
        _load(tmp_path, "torchvision", tensors)


def test_nothing_is_broadcast(tmp_path):
    tensors = torch_vit.timm(torch_vit.ViT())
    tensors["cls_token"] = torch.zeros(1, 1, 1)
    with pytest.raises(ValueError, match=r"cls_token \(1, 1, 1\) and pos_embed .*differ"):
        _load(tmp_path, "timm", tensors)
