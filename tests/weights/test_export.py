import json
import re
import resource
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from cxr_jax import models, weights
from cxr_jax.data import seen_images
from cxr_jax.models import densenet, resnet
from cxr_jax.weights.encoder import Encoder
from cxr_jax.weights.export import main, write_folder
from cxr_jax.weights.exporters import safetensors

IMAGENET = Path(__file__).parents[3] / "shared/realdata/weights/resnet50_imagenet_v1_fp16.npz"
IMAGES = np.random.default_rng(0).uniform(size=(2, 32, 32, 1)).astype(np.float32)
VIT = {"name": "vit", "variant": "64x2", "patch": 8, "image_size": 32}


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    monkeypatch.setitem(densenet.VARIANTS, "tiny", (1, 2))
    monkeypatch.setitem(resnet.VARIANTS, "18", {"stage_sizes": (1, 1), "widths": (8, 16)})


@pytest.fixture
def saved(tmp_path):
    """saved(model config) -> (folder of the encoder in our own format, the encoder)."""

    def save(config):
        model = models.build(config)
        shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, False), IMAGES)
        rng = np.random.default_rng(0)
        variables = {"batch_stats": {}} | jax.tree.map(
            lambda s: rng.uniform(0.05, 0.3, s.shape).astype(np.float32), dict(shapes)
        )
        encoder = Encoder("mine", config, variables, 32)
        write_folder(tmp_path / "ours", safetensors.export(encoder), card="")
        return tmp_path / "ours", encoder

    return save


@pytest.mark.parametrize(
    "config",
    [
        VIT | {"registers": 2, "layer_scale": 0.1, "projection": 3, "pre_norm": True},
        {"name": "densenet", "variant": "tiny", "mean": (0.4,), "std": (0.3,)},
        {"name": "resnet", "variant": "small"},
    ],
)
def test_our_own_format_holds_the_same_encoder(saved, config):
    folder, encoder = saved(config)
    again = weights.load(f"safetensors:{folder}")
    assert (again.name, again.image_size) == ("mine", 32)
    assert models.build(again.model) == models.build(config)
    jax.tree.map(np.testing.assert_array_equal, again.variables, encoder.variables)
    (folder / "cxr_jax.json").unlink()
    with pytest.raises(ValueError, match=r"no cxr_jax\.json beside it"):
        weights.load(f"safetensors:{folder}")


CLIPS_OWN = {"pre_norm": True, "projection": 3, "activation": "quick_gelu", "epsilon": 1e-5}


def _features(encoder):
    return np.asarray(weights.features(encoder)(IMAGES))


@pytest.mark.parametrize(
    ("config", "form", "source"),
    [
        (VIT | {"registers": 2, "layer_scale": 0.1}, "timm", "timm"),
        (VIT | {"pooling": "mean"}, "timm", "timm"),
        (VIT | {"registers": 2, "mean": (0.5,) * 3, "std": (0.2,) * 3}, "huggingface", "dinov2"),
        ({"name": "resnet", "variant": "18", "mean": (0.4,), "std": (0.3,)}, "timm", "timm"),
        ({"name": "resnet", "variant": "18"}, "huggingface", "huggingface"),
        (VIT | CLIPS_OWN, "huggingface", "huggingface"),
        (VIT | CLIPS_OWN | {"projection": 0}, "timm", "huggingface"),
        (VIT | {"heads": 2, "hidden": 128, "activation": "gelu_tanh"}, "huggingface", "dinov2"),
        (VIT | {"heads": 4, "hidden": 96, "pooling": "mean"}, "timm", "timm"),
    ],
)
def test_other_tools_formats_read_back_with_their_facts(saved, tmp_path, config, form, source):
    folder, encoder = saved(config)
    out = main([f"safetensors:{folder}", f"--format={form}", f"--out={tmp_path / 'out'}"])
    again = weights.load(f"{source}:{out}")
    assert again.image_size == 32
    reference = _features(encoder)
    np.testing.assert_allclose(_features(again), reference, atol=1e-5 * np.abs(reference).max())
    # A folder of another tool, whose config.json is not a run's, goes out again.
    main([f"{source}:{out}", "--format=safetensors", f"--out={tmp_path / 'third'}"])
    card = (tmp_path / "third/README.md").read_text()
    assert card.startswith("---\nlibrary_name:") and "Not by cxr_jax" in card
    one = len(models.build(config).mean) == 1
    assert ("one channel, not three" in (out / "README.md").read_text()) == one


TO_OPENAI = {
    **{"vision_model.": "visual.", "encoder.layers": "transformer.resblocks"},
    **{"embeddings.class_embedding": "class_embedding", "embeddings.patch_embedding": "conv1"},
    **{"embeddings.position_embedding.weight": "positional_embedding", "pre_layrnorm": "ln_pre"},
    **{"post_layernorm": "ln_post", "layer_norm": "ln_", "self_attn.out_proj": "attn.out_proj"},
    **{"fc1": "c_fc", "fc2": "c_proj"},
}


def test_clips_vit_goes_to_transformers_as_the_names_of_both_say(saved, tmp_path):
    folder, encoder = saved(VIT | CLIPS_OWN | {"mean": (0.5,) * 3, "std": (0.2,) * 3})
    out = main([f"safetensors:{folder}", "--format=huggingface", f"--out={tmp_path / 'out'}"])
    config = json.loads((out / "config.json").read_text())
    assert (config["model_type"], config["projection_dim"]) == ("clip_vision_model", 3)
    assert (config["hidden_act"], config["layer_norm_eps"]) == ("quick_gelu", 1e-5)
    openai, parts = {}, {}
    for key, array in load_file(out / "model.safetensors").items():
        for theirs, other in TO_OPENAI.items():
            key = key.replace(theirs, other)
        if match := re.fullmatch(r"(.*)self_attn\.([qkv])_proj\.(weight|bias)", key):
            parts.setdefault(f"{match[1]}attn.in_proj_{match[3]}", {})[match[2]] = array
        else:
            openai[key] = array
    openai |= {key: np.concatenate([three[p] for p in "qkv"]) for key, three in parts.items()}
    openai["visual.proj"] = openai.pop("visual_projection.weight").T
    np.savez(tmp_path / "clip.npz", **openai)
    again = weights.load(f"clip:{tmp_path / 'clip.npz'}")
    assert {key: again.model[key] for key in CLIPS_OWN} == CLIPS_OWN
    jax.tree.map(np.testing.assert_array_equal, again.variables, encoder.variables)


def test_keys_and_shapes_are_those_of_the_tools(saved, tmp_path):
    pytest.importorskip("torch")
    from tests.weights import torch_vit

    folder, _ = saved(
        VIT | {"registers": 2, "layer_scale": 0.1, "mean": (0.5,) * 3, "std": (0.2,) * 3}
    )
    net = torch_vit.ViT(registers=2, layer_scale=True)
    for form, layout in (
        ("timm", torch_vit.timm(net, has_place=False)),
        ("huggingface", torch_vit.hugging_face_dinov2(net)),
    ):
        out = main([f"safetensors:{folder}", f"--format={form}", f"--out={tmp_path / form}"])
        shapes = {key: array.shape for key, array in load_file(out / "model.safetensors").items()}
        assert shapes == {key: tuple(tensor.shape) for key, tensor in layout.items()}


def test_a_grey_resnet_gives_torchvisions_module_the_same_features(saved, tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    from tests.weights import torch_cnn

    config = {"name": "resnet", "variant": "18", "mean": (0.4,), "std": (0.3,)}
    folder, encoder = saved(config)
    out = main([f"safetensors:{folder}", "--format=torchvision", f"--out={tmp_path / 'tv'}"])
    net = torch_cnn.SmallResNet()
    net.load_state_dict(load_file(out / "model.safetensors"))
    with torch.no_grad():
        images = torch.from_numpy(IMAGES.transpose(0, 3, 1, 2)).repeat(1, 3, 1, 1)
        reference = net((images - 0.4) / 0.3).numpy()
    np.testing.assert_allclose(_features(encoder), reference, atol=1e-4 * np.abs(reference).max())


def test_a_resnet_gives_hugging_faces_module_the_same_features(saved, tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    from tests.weights import torch_cnn

    folder, encoder = saved({"name": "resnet", "variant": "18", "mean": (0.4,), "std": (0.3,)})
    out = main([f"safetensors:{folder}", "--format=huggingface", f"--out={tmp_path / 'hf'}"])
    net = torch_cnn.HuggingFaceResNet(json.loads((out / "config.json").read_text()))
    net.load_state_dict(load_file(out / "model.safetensors"))
    facts = json.loads((out / "preprocessor_config.json").read_text())
    assert facts["crop_size"] == {"height": 32, "width": 32}
    (mean,), (std,) = facts["image_mean"], facts["image_std"]
    with torch.no_grad():
        images = torch.from_numpy(IMAGES.transpose(0, 3, 1, 2))
        reference = net.eval()((images - mean) / std).numpy()
    np.testing.assert_allclose(_features(encoder), reference, atol=1e-4 * np.abs(reference).max())


def test_the_card_says_what_was_done_seen_and_scored(saved, tmp_path):
    folder, _ = saved(VIT)
    workdir = tmp_path / "run"
    workdir.mkdir()
    ones = np.ones(3, np.int64)
    names = np.array(["jsrt/256", "phantom/tiny", "my_hospital/256"])
    patients = np.array(["0123456789abcdef"] * 3)
    seen = seen_images.ImageHashes(
        names, np.array(["train"] * 3), ones, patients, ones.astype(np.uint64)
    )
    for path in folder.iterdir():
        path.rename(workdir / path.name)
    seen_images.write(workdir / seen_images.FILE, seen)
    config = {
        "experiment": "pretrain",
        **{"num_train_steps": 9, "batch_size": 4, "seed": 0, "objective": {"name": "byol"}},
        **{"data": {"name": "phantom/tiny", "split": "train"}, "optimizer": {"name": "lars"}},
    }
    (workdir / "config.json").write_text(json.dumps(config))
    row = {"label": "macro", "n_pos": 3, "n_neg": 4, "auroc": 0.75, "low": 0.5, "high": 0.9}
    (tmp_path / "metrics.json").write_text(json.dumps([row, row | {"auroc": None}]))
    pair = {"a": "mine", "b": "random", "auroc_b": 0.7, "difference": 0.05, "low": -0.01}
    (tmp_path / "comparisons.json").write_text(json.dumps([pair | {"high": 0.11}]))
    arguments = [f"safetensors:{workdir}", "--format=timm", f"--scores={tmp_path}"]
    out = main([*arguments, "--licence=CC BY 4.0", "--with_ledger"])
    assert out == workdir / "export/timm" and (out / seen_images.FILE).is_file()
    card = (out / "README.md").read_text()
    assert patients[0] not in card
    for part in (
        "mine of 9, batches of 4, on phantom/tiny (train)",
        "| phantom/tiny | train | 1 |",
        'license: "other"\nlicense_name: "CC BY 4.0"\n',
        'datasets: ["jsrt"]\nmetrics: ["roc_auc"]\nmodel-index: [{"name": "mine", "results": [{',
        '"metrics": [{"type": "roc_auc", "name": "AUROC, macro", "value": 0.75}]',
        "| macro | 3 | 4 | 0.750 [0.500, 0.900] |",
        "Against random, of macro AUROC 0.700: +0.050 [-0.010, +0.110].",
        "CC BY 4.0",
        "brought to 32 px",
        "mean 0.5 and std 0.25",
        "timm.create_model(",
    ):
        assert part in card
    with pytest.raises(ValueError, match=r"export/timm is there and not empty"):
        main(arguments)
    # An old workdir's file is found too, and goes out under the name that is read today.
    (workdir / seen_images.FILE).rename(workdir / "exposure.parquet")
    old = main([*arguments, f"--out={tmp_path / 'old'}", "--with_seen_images"])
    licence = 'license: "other"\nlicense_name: "CC BY 4.0"\n'
    fill_in = "# license: yours to fill in, or --licence; the training data may bind it\n"
    assert (old / "README.md").read_text() == card.replace(licence, "").replace(
        "\n---\n", f"\n{fill_in}---\n", 1
    ).replace("CC BY 4.0", "None is stated; the training data may have its own terms.")
    assert seen_images.read(old).patient.tolist() == patients.tolist()
    assert (old / seen_images.FILE).is_file()
    (tmp_path / "comparisons.json").write_text(json.dumps([pair | {"a": "other", "high": 1}]))
    with pytest.raises(ValueError, match="they are of other, not of mine"):
        main([*arguments, f"--out={tmp_path / 'new'}"])
    with pytest.raises(FileNotFoundError, match=r"no metrics\.json in it"):
        main([*arguments[:2], f"--out={tmp_path / 'new'}", f"--scores={workdir}"])


@pytest.mark.parametrize(
    ("config", "form", "message"),
    [
        (VIT, "torchvision", "written of ResNets and DenseNets, not of vit"),
        (VIT | {"projection": 3}, "timm", "no ViT with all of CLIP's parts; --format=huggingface"),
        (
            VIT | {"projection": 3, "registers": 1},
            "huggingface",
            "CLIP has no ViT with registers and no norm before its blocks; --format=onnx",
        ),
        ({"name": "resnet", "variant": "small"}, "caffe", "no format 'caffe' .*onnx, safetensors"),
        (VIT | {"pooling": "mean"}, "huggingface", "gives the class token, this ViT a mean"),
        ({"name": "resnet", "variant": "small"}, "torchvision", "ResNet 'small' is our own"),
        ({"name": "densenet", "variant": "tiny"}, "huggingface", "transformers has no DenseNet"),
    ],
)
def test_what_a_tool_does_not_have_is_refused(saved, tmp_path, config, form, message):
    folder, _ = saved(config)
    with pytest.raises(ValueError, match=message):
        main([f"safetensors:{folder}", f"--format={form}", f"--out={tmp_path / 'out'}"])
    assert not (tmp_path / "out").exists()


def test_an_export_that_ends_too_early_leaves_its_place_free(saved, tmp_path):
    folder, _ = saved(VIT)
    ones, word = np.ones(1, np.int64), np.array(["word"])
    seen = seen_images.ImageHashes(word, word, ones, word, ones.astype(np.uint64))
    seen_images.write(folder / seen_images.FILE, seen)
    out = tmp_path / "out"
    arguments = [f"safetensors:{folder}", "--format=safetensors", f"--out={out}", "--with_ledger"]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 12, limits[1]))  # as on a full disk
    try:
        with pytest.raises(OSError, match="File too large"):
            main(arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours"]
    # What SIGKILL leaves; and a link to an empty folder.
    (tmp_path / "real.tmp").mkdir()
    (tmp_path / "real.tmp/model.safetensors").write_bytes(b"half")
    (tmp_path / "real").mkdir()
    out.symlink_to("real")
    main(arguments)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours", "out", "real"]
    assert sorted(path.name for path in out.iterdir()) == [
        *("README.md", "cxr_jax.json", "model.safetensors", seen_images.FILE),
    ]


@pytest.mark.skipif(not IMAGENET.exists(), reason="the shared real data are not here")
def test_imagenets_resnet50_goes_in_out_and_in_unchanged(tmp_path, monkeypatch):
    monkeypatch.undo()  # the whole ResNet-18
    encoder = weights.load(f"torchvision_v1:{IMAGENET}")
    out = main([f"torchvision_v1:{IMAGENET}", "--format=torchvision", f"--out={tmp_path / 'out'}"])
    again = weights.load(f"torchvision_v1:{out / 'model.safetensors'}")
    assert again.model == encoder.model
    jax.tree.map(np.testing.assert_array_equal, again.variables, encoder.variables)
    assert "conv1.stride" in (out / "README.md").read_text()
