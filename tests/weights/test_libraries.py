"""Our readers and exports against timm and transformers themselves (skipped without them).

Small models of random weights, saved by the libraries' own functions.
"""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from cxr_jax import models, weights
from cxr_jax.models import convnext, densenet, resnet, swin
from cxr_jax.weights.export import main
from cxr_jax.weights.importers import _vit
from tests.weights.make_encoder import make_encoder

torch = pytest.importorskip("torch")
from safetensors.torch import load_file  # noqa: E402 (needs torch)

try:
    timm = pytest.importorskip("timm")
    from timm.models import save_for_hf
except RuntimeError as error:  # a torchvision of another torch
    pytest.skip(str(error), allow_module_level=True)
transformers = pytest.importorskip("transformers")

IMAGES = np.random.default_rng(0).uniform(size=(2, 32, 32, 1)).astype(np.float32)
SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 96, "depth": 2, "num_heads": 2}
VITS = {
    "vit_base_patch16_224": {},
    "vit_base_patch16_clip_224": {},
    "vit_base_patch16_clip_quickgelu_224": {},
    "deit_base_distilled_patch16_224": {},
    "deit3_base_patch16_224": {"init_values": 0.1},
    "vit_base_patch16_reg4_gap_256": {},
    "vit_base_patch32_siglip_gap_256": {},
    "vit_base_patch14_reg4_dinov2": {"init_values": 0.1},
    "vit_base_patch16_siglip_224": {},
}
CNNS = ("resnet18", "resnet50d", "seresnet18", "densenet121")
STAGES = {"depths": (1, 1, 2, 1)}
STAGED = {
    "convnext_tiny": STAGES | {"dims": (8, 16, 24, 32)},
    # Windows of 2 over maps of 24, 12, 6 and 3, which is padded.
    "swin_tiny_patch4_window7_224": STAGES
    | {"embed_dim": 12, "num_heads": (1, 2, 3, 4), "window_size": 2, "img_size": 96},
}
REFUSED = (
    "vit_base_patch16_rpn_224",
    "resnetaa50",
    "resnetblur50",
    "resnet50t",
    "densenetblur121d",
)


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setitem(resnet.VARIANTS, "18", {"stage_sizes": (1, 1, 1, 1)})
    fifty = {"stage_sizes": (1, 1, 1, 1), "bottleneck": True}
    monkeypatch.setitem(resnet.VARIANTS, "50", fifty)
    monkeypatch.setitem(densenet.VARIANTS, "121", (1, 2, 1, 1))


def _randomise(net):
    torch.manual_seed(0)
    for name, tensor in net.state_dict().items():
        if tensor.is_floating_point():
            low, high = (0.5, 1.5) if "var" in name or tensor.ndim == 1 else (-0.15, 0.15)
            tensor.uniform_(low, high)
    return net.eval()


def _assert_same(encoder, reference, images=IMAGES):
    ours = np.asarray(weights.features(encoder)(jnp.asarray(images)))
    assert ours.shape == reference.shape and reference.std() > 1e-3
    assert np.abs(ours - reference).max() < 1e-4 * np.abs(reference).max()


def _pixels(encoder, images):
    mean, std = (np.asarray(encoder.model[name], np.float32) for name in ("mean", "std"))
    return ((images - mean) / std).transpose(0, 3, 1, 2).copy()


def _of_timm(net, encoder, images=IMAGES):
    with torch.no_grad():
        return net(torch.from_numpy(_pixels(encoder, images))).numpy()


@pytest.mark.parametrize("name", VITS)
def test_timms_vits(tmp_path, name):
    arguments = SMALL | VITS[name]
    net = _randomise(timm.create_model(name, num_classes=0, **arguments))
    save_for_hf(net, tmp_path, model_args=arguments)
    encoder = weights.load(f"timm:{tmp_path}")
    assert encoder.model["heads"] == 2
    _assert_same(encoder, _of_timm(net, encoder))


@pytest.mark.parametrize("name", CNNS)
def test_timms_cnns(tmp_path, name):
    sizes = {"block_config": (1, 2, 1, 1)} if "dense" in name else {"layers": [1, 1, 1, 1]}
    net = _randomise(timm.create_model(name, num_classes=0, **sizes))
    save_for_hf(net, tmp_path)
    encoder = weights.load(f"huggingface:{tmp_path}")
    images = np.random.default_rng(0).uniform(size=(2, 65, 72, 1)).astype(np.float32)  # odd maps
    _assert_same(encoder, _of_timm(net, encoder, images), images)


@pytest.mark.parametrize("name", STAGED)
def test_timms_convnexts_and_swins(tmp_path, name, monkeypatch):
    monkeypatch.setitem(convnext.VARIANTS, "T", ((1, 1, 2, 1), (8, 16, 24, 32)))
    monkeypatch.setitem(swin.VARIANTS, "T", (12, (1, 1, 2, 1), (1, 2, 3, 4)))
    net = _randomise(timm.create_model(name, num_classes=0, **STAGED[name]))
    save_for_hf(net, tmp_path)
    encoder = weights.load(f"timm:{tmp_path}")
    images = np.random.default_rng(0).uniform(size=(2, 96, 96, 1)).astype(np.float32)
    _assert_same(encoder, _of_timm(net, encoder, images), images)
    maps = models.build(encoder.model).apply(encoder.variables, images, False, method="maps")
    with torch.no_grad():
        theirs = net.forward_features(torch.from_numpy(_pixels(encoder, images))).numpy()
    theirs = theirs.transpose(0, 2, 3, 1) if "convnext" in name else theirs
    assert np.abs(maps - theirs).max() < 1e-4 * np.abs(theirs).max()


@pytest.mark.parametrize("fields", [{}, {"scale_mlp": True, "qkv_fused": False}])
def test_eva_xs(tmp_path, fields):
    from timm.models.eva import Eva

    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 128, "depth": 2, "num_heads": 2}
    kind = {"mlp_ratio": 8 / 3, "swiglu_mlp": True, "use_rot_pos_emb": True}
    net = Eva(**sizes, **kind, ref_feat_shape=(14, 14), num_classes=0, **fields)
    tensors = _randomise(net).state_dict()
    torch.save({"model": {k: t.clone() for k, t in tensors.items()}}, tmp_path / "eva.pt")
    encoder = weights.load(f"eva_x:{tmp_path}/eva.pt")
    _assert_same(encoder, _of_timm(net, encoder))


@pytest.mark.parametrize("name", REFUSED)
def test_timms_other_kinds_are_refused_by_name(tmp_path, name):
    (tmp_path / "config.json").write_text(json.dumps({"architecture": name}))
    np.savez(tmp_path / "weights.npz", a=np.ones(1, np.float32))
    with pytest.raises(ValueError, match=rf"config\.json: timm's {name} is not read here"):
        weights.load(f"timm:{tmp_path}/weights.npz")


def test_the_table_of_heads_is_timms():
    with torch.device("meta"):
        for name in ("vit_tiny_patch16_224", "vit_huge_patch14_gap_224", "deit3_huge_patch14_224"):
            net = timm.create_model(name)
            size = (net.embed_dim, len(net.blocks))
            assert _vit.HEADS[size] == net.blocks[0].attn.num_heads, name


DINOV2 = {
    **{"hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32},
    **{"patch_size": 8, "layer_norm_eps": 1e-3, "hidden_act": "gelu_pytorch_tanh"},
}
RESNET = {"embedding_size": 64, "depths": [1, 1, 1, 1], "downsample_in_bottleneck": True}
PIXELS = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.25], "do_normalize": True}
CROP = {"do_center_crop": True, "crop_size": {"height": 32, "width": 32}}
HUGGING_FACE = {
    "dinov2": lambda t: t.Dinov2Model(t.Dinov2Config(**DINOV2, mlp_ratio=3)),
    "registers": lambda t: t.Dinov2WithRegistersModel(
        t.Dinov2WithRegistersConfig(**DINOV2, num_register_tokens=3)
    ),
    "clip": lambda t: t.CLIPVisionModelWithProjection(
        t.CLIPVisionConfig(**DINOV2, intermediate_size=128, projection_dim=24)
    ),
    "resnet": lambda t: t.ResNetModel(t.ResNetConfig(**RESNET)),
    "swiglu": lambda t: t.Dinov2Model(t.Dinov2Config(**DINOV2, use_swiglu_ffn=True)),
    "dinov3": lambda t: t.DINOv3ViTModel(
        t.DINOv3ViTConfig(**DINOV2, intermediate_size=200, num_register_tokens=2)
    ),
    "dinov3_gated": lambda t: t.DINOv3ViTModel(
        t.DINOv3ViTConfig(**DINOV2 | {"hidden_act": "silu"}, use_gated_mlp=True)
    ),
    "dinov3_convnext": lambda t: t.DINOv3ConvNextModel(
        t.DINOv3ConvNextConfig(depths=[1, 1, 2, 1], hidden_sizes=[8, 16, 24, 32])
    ),
    "siglip": lambda t: t.SiglipVisionModel(
        t.SiglipVisionConfig(**DINOV2 | {"hidden_act": "gelu"}, intermediate_size=128)
    ),
}


@pytest.mark.parametrize("kind", HUGGING_FACE)
def test_transformers_models(tmp_path, kind, monkeypatch):
    monkeypatch.setitem(convnext.VARIANTS, "T", ((1, 1, 2, 1), (8, 16, 24, 32)))
    net = _randomise(HUGGING_FACE[kind](transformers))
    net.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PIXELS | CROP))
    encoder = weights.load(f"huggingface:{tmp_path}")
    mean, std = (np.asarray(PIXELS[f"image_{name}"], np.float32) for name in ("mean", "std"))
    with torch.no_grad():
        out = net(torch.from_numpy(((IMAGES - mean) / std).transpose(0, 3, 1, 2).copy()))
    reference = out.image_embeds if kind == "clip" else out.pooler_output.flatten(1)
    _assert_same(encoder, reference.numpy())
    # The file's keys, not net.state_dict()'s, which transformers 5 renames in memory.
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    _assert_same(weights.load(f"huggingface:{tmp_path}"), reference.numpy())


VIT = {"name": "vit", "variant": "96x2", "patch": 8, "image_size": 32, "heads": 2, "hidden": 128}


@pytest.mark.parametrize(
    "config",
    [
        VIT | {"pooling": "mean", "activation": "gelu_tanh"},
        VIT | {"registers": 2, "layer_scale": 0.1},
        VIT | {"pre_norm": True, "epsilon": 1e-5, "activation": "quick_gelu"},
        {"name": "densenet", "variant": "121"},
    ],
)
def test_timm_opens_our_folder_its_own_way(tmp_path, config, monkeypatch):
    monkeypatch.setitem(densenet.VARIANTS, "121", (6, 12, 24, 16))
    encoder, source = make_encoder(config, 32, tmp_path / "ours")
    out = main([source, "--format=timm", f"--out={tmp_path / 'out'}"])
    net = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    reference = _of_timm(net, encoder._replace(model={"mean": (0.5,), "std": (0.25,)}))
    _assert_same(encoder, reference)
    again = weights.load(f"timm:{out}")
    _assert_same(again, reference)


def test_transformers_opens_our_folder_and_its_processor_gives_one_channel(tmp_path):
    encoder, source = make_encoder(
        VIT | {"activation": "gelu_tanh", "hidden": 192}, 32, tmp_path / "ours"
    )
    out = main([source, "--format=huggingface", f"--out={tmp_path / 'out'}"])
    net = transformers.AutoModel.from_pretrained(out).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(out)
    pixels = np.round(255 * IMAGES).astype(np.uint8)
    with torch.no_grad():
        read = processor(list(pixels), input_data_format="channels_last", return_tensors="pt")
        reference = net(**read).pooler_output.numpy()
    assert read["pixel_values"].shape == (2, 1, 32, 32)
    _assert_same(encoder, reference, pixels / np.float32(255))
