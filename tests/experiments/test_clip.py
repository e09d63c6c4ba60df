"""A small clip model from its training on: its text tower answers, travels, is refused damaged."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

import cxr_jax
from cxr_jax import config as config_file
from cxr_jax import weights
from cxr_jax.data import reports
from cxr_jax.data.source import load_source
from cxr_jax.data.splits import image_batches, load_split
from cxr_jax.experiments import _workdir, benchmark, pretrain, retrieval, transfer
from cxr_jax.experiments._benchmark_grid import Cell
from cxr_jax.objectives import _image_text
from cxr_jax.transfer.predictions import read_parquet
from cxr_jax.transfer.zero_shot import _read_tower
from cxr_jax.weights import export
from tests.fakes import tiny_config

tokenizers = pytest.importorskip("tokenizers")

SENTENCES = ["There is a small left pleural effusion.", "No pneumothorax.", "Normal chest."]


@pytest.fixture(scope="module")
def config(data_dir):
    config = tiny_config.make("clip", "demo", data_dir)
    # Compiled in a fraction of a ResNet's time.
    config.model = ConfigDict(dict(name="vit", variant="64x1", patch=16, image_size=32))
    config.update(num_train_steps=2, checkpoint_every_steps=2)
    config.objective.hidden = ()  # linear heads, as in the paper
    return config


@pytest.fixture(scope="module")
def trained(config, tmp_path_factory):
    """(workdir, its last state)."""
    workdir = tmp_path_factory.mktemp("clip") / "run"
    return workdir, pretrain.train(config, workdir)


@pytest.fixture(scope="module")
def encoder(trained):
    return cxr_jax.load_encoder(str(trained[0]))


def test_text_and_images_are_where_training_put_them(config, trained, encoder, data_dir):
    """Against the objective's own outputs, its batch norm in evaluation."""
    workdir, state = trained
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32), np.uint8)
    texts, joint = encoder.text(SENTENCES), encoder.joint(images)
    assert texts.shape == joint.shape == (3, 4)
    source = load_source("phantom/tiny", str(data_dir), "train")
    words = reports.open_reports(source, config.data.reports, workdir)[1].tokenizer
    encoding = tokenizers.Tokenizer.from_str(words).encode(SENTENCES[0]).ids
    tokens = jnp.asarray([encoding], jnp.int32)
    text = _image_text.text_encoder(config)
    vector = text.apply({"params": state.params["text"]}, tokens, tokens >= 0)
    for name, vectors, found in (
        ("text_projector", vector, texts[:1]),
        ("projector", encoder(images), joint),
    ):
        kernel = state.params[name]["dense_out"]["kernel"]
        norm, stats = state.params[name]["bn_out"], state.aux["batch_stats"][name]["bn_out"]
        x = (np.asarray(vectors) @ kernel - stats["mean"]) / np.sqrt(stats["var"] + 1e-5)
        x = x * norm["scale"]
        np.testing.assert_allclose(found, x / np.linalg.norm(x, axis=1, keepdims=True), atol=1e-4)
    np.testing.assert_allclose(encoder.text(SENTENCES[1]), texts[1:2], atol=1e-6)
    scale = encoder.text_encoder.text.scale
    np.testing.assert_allclose(scale, np.exp(state.params["logit_scale"]), rtol=1e-5)


def test_what_the_tower_cannot_read_is_named(encoder):
    long = "no " * 70
    with pytest.raises(ValueError, match="sentence 2 has 142 tokens, and the text tower reads 64"):
        encoder.text([SENTENCES[0], long])
    with pytest.raises(ValueError, match=r"a\{b\}, positive prompt 1 has 142 tokens"):
        encoder.text_encoder.check([long], "a{b}, positive prompt")
    for nothing in ([], [""]):
        with pytest.raises(ValueError, match="pass one sentence or a list of them"):
            encoder.text(nothing)
    random = weights.random_encoder({"name": "resnet", "variant": "small"}, 32, 0)
    with pytest.raises(ValueError, match="random has no text tower: encoders have"):
        weights.encoder.ImageEncoder(random).text("Normal chest.")


def test_an_export_of_ours_keeps_it(trained, encoder, tmp_path):
    out = tmp_path / "out"
    export.main([str(trained[0]), "--format=safetensors", f"--out={out}"])
    found = cxr_jax.load_encoder(str(out))
    np.testing.assert_array_equal(found.text(SENTENCES), encoder.text(SENTENCES))
    facts = json.loads((out / "text.json").read_text())
    for changed, message in (
        (facts | {"max_tokens": 78}, "max_tokens=78 of 77 positions"),
        (facts | {"model": facts["model"] | {"width": 128}}, "does not fit its text.json"),
        (facts | {"heads": {"image": 3}}, "holds no model, heads and max_tokens"),
        (facts | {"model": {}}, "text.json lacks 'vocabulary'"),
    ):
        (out / "text.json").write_text(json.dumps(changed))
        with pytest.raises(ValueError, match=message):
            cxr_jax.load_encoder(str(out)).text("Normal chest.")


def test_a_damaged_tower_is_refused_and_the_images_encoder_read(trained, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(trained[0], workdir)
    (item,) = workdir.glob("checkpoints/*/text")
    shutil.rmtree(item)
    encoder = cxr_jax.load_encoder(str(workdir))
    assert encoder(np.zeros((1, 32, 32), np.uint8)).shape == (1, 64)
    with pytest.raises(ValueError, match="text tower cannot be read: text is missing or empty"):
        encoder.text("Normal chest.")
    (workdir / "text.json").unlink()  # as of runs before towers were kept
    with pytest.raises(ValueError, match="clip step 2 has no text tower"):
        cxr_jax.load_encoder(str(workdir)).text("Normal chest.")


@pytest.fixture
def zero_shot(trained, data_dir):
    """A transfer's config, whose predictions are compared with a softmax by hand."""
    config = config_file.load("configs/transfer.py:zero_shot", [])
    config.update(encoder=str(trained[0]), dataset="phantom/tiny", num_resamples=20)
    config.data.dir, config.pictures.draw = str(data_dir), False
    return config


def test_zero_shot_scores_images_by_prompts_that_travel(zero_shot, encoder, tmp_path):
    prompts = {
        "Effusion": {"positive": ["pleural effusion", "an effusion"], "negative": ["no effusion"]},
        "Edema": {"positive": ["edema"]},
    }
    (tmp_path / "mine.json").write_text(json.dumps(prompts))
    zero_shot.task, zero_shot.zero_shot.prompts = "Effusion", str(tmp_path / "mine.json")
    transfer.run(zero_shot, tmp_path / "run")
    kept = json.loads((tmp_path / "run" / "prompts.json").read_text())
    assert kept == prompts | {"Edema": {"positive": ["edema"], "negative": []}}
    predictions = read_parquet(tmp_path / "run" / "predictions.parquet")
    test = load_split("phantom/tiny", zero_shot.data.dir, "test", "Effusion")
    images = np.concatenate(list(image_batches(test, 8, 32)))[..., 0]
    positive = encoder.text(prompts["Effusion"]["positive"]).mean(axis=0)
    positive /= np.linalg.norm(positive)
    away = positive - encoder.text(prompts["Effusion"]["negative"])[0]
    expected = encoder.text_encoder.text.scale * encoder.joint(images) @ away
    order = {name: row for row, name in enumerate(predictions.image_id.tolist())}
    rows = [order[name] for name in test.hashed_ids()[0]]
    np.testing.assert_allclose(predictions.scores[rows, 0], expected, atol=1e-4)
    assert predictions.score_kind == "log-odds"
    facts = json.loads((tmp_path / "run" / "probe.json").read_text())
    cell = Cell("clip", zero_shot.encoder, "phantom/tiny", "", "zero_shot", 0.1, 0)
    assert benchmark._facts(tmp_path / "run", cell, zero_shot)["num_images"] == 0
    held = benchmark._Held().encoder(zero_shot)
    assert held.text() is held.text()  # of a checkpoint that its run may remove
    assert facts["remarks"] == ["Prompts of labels that are not scored here: Edema."]
    assert "Zero-shot: no label was learned from" in (tmp_path / "run" / "report.md").read_text()
    zero_shot.task = "Nodule"
    with pytest.raises(ValueError, match=r"mine\.json has no prompts for Nodule\. Name a file"):
        transfer.run(zero_shot, tmp_path / "other")


def test_fingerprints_know_the_text_tower(trained):
    encoder = weights.load(str(trained[0]))
    text = encoder.text()
    other = text._replace(params=jax.tree.map(lambda leaf: leaf + 1, text.params))
    pooled = text._replace(model=text.model | {"pooling": "another"})
    towers = (text, other, pooled, text._replace(scale=2 * text.scale))
    read = [_read_tower(encoder._replace(text=lambda one=one: one)) for one in towers]
    marks = {_workdir.fingerprint_weights(encoder, arrays) for arrays in read}
    assert len(marks) == 4
    alone = _workdir.fingerprint_arrays(encoder.variables, repr(encoder.reads))
    assert _workdir.fingerprint_weights(encoder) == alone not in marks


def test_zero_shot_refuses_encoders_without_a_tower_and_long_prompts(zero_shot, tmp_path):
    zero_shot.baselines = "random"
    with pytest.raises(ValueError, match="needs a text tower, and random has none"):
        transfer.check(zero_shot)
    with pytest.raises(ValueError, match=r"random has none.*leave the others out of config\.base"):
        transfer.run(zero_shot, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    long = {"Effusion": {"positive": ["effusion", "no " * 70], "negative": ["none"]}}
    (tmp_path / "mine.json").write_text(json.dumps(long))
    zero_shot.baselines, zero_shot.task = "", "Effusion"
    zero_shot.zero_shot.prompts = str(tmp_path / "mine.json")
    with pytest.raises(ValueError, match="Effusion, positive prompt 2 has 142 tokens"):
        transfer.run(zero_shot, tmp_path / "run")


def test_retrieval_reads_reports_and_counts_those_that_are_cut(
    trained, encoder, data_dir, studies_dir, tmp_path, capsys
):
    config = config_file.load("configs/retrieval.py", [])
    config.update(encoder=str(trained[0]), dataset="phantom/tiny", num_resamples=20)
    config.data.dir, config.sections = str(data_dir), ()
    retrieval.run(config, tmp_path / "run")
    facts = json.loads((tmp_path / "run" / "retrieval.json").read_text())
    assert (facts["images"], facts["patients"]) == (24, 8)
    assert 0 < facts["reports cut"] <= facts["different reports"]
    assert f"{facts['reports cut']} of 24 reports are longer than the 64" in capsys.readouterr().out
    source = load_source("phantom/tiny", str(data_dir), "test")
    texts = source.columns(("report", "patient_id"))
    said = [" ".join(text.split()) for text in texts["report"]]
    test = load_split("phantom/tiny", str(data_dir), "test", "Effusion")
    images = encoder.joint(np.concatenate(list(image_batches(test, 8, 32)))[..., 0])
    vectors, patients = encoder.text_encoder(said, cut=True), np.array(texts["patient_id"])
    hits = 0
    for row in range(24):
        others = (patients != patients[row]) & (np.array(said) != said[row])
        hits += int((vectors[others] @ images[row] >= vectors[row] @ images[row]).sum() < 5)
    assert facts["recall"][1]["recall"] == pytest.approx(hits / 24)
    assert "| image to report | 5 |" in (tmp_path / "run" / "retrieval.md").read_text()
    assert facts["seen"] == {"images": 0, "patients": 0}
    config.split = "train"
    retrieval.run(config, tmp_path / "train")
    seen = json.loads((tmp_path / "train" / "retrieval.json").read_text())["seen"]
    page = (tmp_path / "train" / "retrieval.md").read_text()
    assert seen["images"] and f"{seen['images']} look like images that {trained[0]} saw" in page
    assert "seem to have been in the pretraining of" in page
    config.dataset, config.data.dir = "image_folder", str(studies_dir)
    with pytest.raises(ValueError, match="dataset image_folder has no reports"):
        retrieval.run(config, tmp_path / "other")
