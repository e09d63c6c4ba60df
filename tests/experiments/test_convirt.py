"""Pretraining with reports: resumed without the files that it started from; caches; presets."""

import importlib
import json

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from safetensors.numpy import save_file

from cxr_jax import objectives
from cxr_jax.data import reports, tokenizer
from cxr_jax.data.source import load_source
from cxr_jax.experiments import _feed, _workdir, pretrain, reproduce
from cxr_jax.experiments._pretrain_inputs import open_fields
from cxr_jax.training import sharding, step
from tests.fakes import bert_file

pytest.importorskip("tokenizers")


def test_two_halves_equal_one_run_though_tokenizer_and_weights_are_gone(tiny_config, tmp_path):
    config = tiny_config("convirt")
    # Compiled in a fraction of a ResNet's time.
    config.model = ConfigDict(dict(name="vit", variant="64x1", patch=16, image_size=32))
    source = load_source("phantom/tiny", config.data.dir, "train")
    made = reports.open_reports(source, config.data.reports, tmp_path / "none")[1]
    (tmp_path / "words.json").write_text(made.tokenizer)
    arrays = bert_file.arrays(64, 256, 2, 512, 512)
    save_file(arrays, tmp_path / "bert.safetensors")
    config.data.reports.tokenizer = str(tmp_path / "words.json")
    config.objective.text.update(weights=str(tmp_path / "bert.safetensors"), frozen_layers=1)
    whole = pretrain.train(config, tmp_path / "whole")
    pretrain.train(config, tmp_path / "halves", stop_after=2)
    for name in ("words.json", "bert.safetensors"):
        (tmp_path / name).unlink()
    halves = pretrain.train(config, tmp_path / "halves")
    jax.tree.map(np.testing.assert_array_equal, whole._asdict(), halves._asdict())
    (start,) = _workdir.read_provenance(tmp_path / "halves")[
        "starts"
    ]  # the second was like the first
    assert start["texts"].keys() == {str(tmp_path / "bert.safetensors")}
    lines = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "halves")]
    assert lines[0] == lines[1] and len(lines[0].splitlines()) == 4
    line = json.loads(lines[0].splitlines()[0])
    assert {"retrieval_accuracy", "text_std", "embedding_std", "effective_rank"} <= line.keys()
    kept = (tmp_path / "whole" / tokenizer.FILE).read_text()
    assert json.loads(kept)["model"] == json.loads(made.tokenizer)["model"]
    word = whole.aux["frozen_text"]["embeddings"]["word"]
    np.testing.assert_array_equal(word, arrays["embeddings.word_embeddings.weight"])
    first, last = whole.aux["frozen_text"]["layer_0"], whole.params["text"]["layer_1"]
    for layer, number, stays in ((first, 0, True), (last, 1, False)):
        given = arrays[f"encoder.layer.{number}.intermediate.dense.weight"].T
        np.testing.assert_allclose(layer["fc1"]["kernel"], given, atol=0.05)
        assert (np.asarray(layer["fc1"]["kernel"]) == given).all() == stays
    for folder in ("whole", "halves"):
        assert (tmp_path / folder / "checkpoints" / "4" / "encoder").is_dir()
    save_file(arrays, tmp_path / "bert.safetensors")
    reproduce.check(config, tmp_path / "halves")
    arrays["embeddings.LayerNorm.bias"][0] += 1
    save_file(arrays, tmp_path / "bert.safetensors")
    with pytest.raises(ValueError, match=r"the text encoder .*bert\.safetensors has other weights"):
        reproduce.check(config, tmp_path / "halves")


def test_reports_are_the_same_whatever_the_cache(tiny_config, data_dir, tmp_path):
    config, batches = tiny_config("convirt"), {}
    source = load_source("phantom/tiny", str(data_dir), "train", fields=("image",))
    source, fields = open_fields(config, objectives.build(config), source, tmp_path)
    for config.data.cache in ("none", "host", "device"):
        opened = _feed.open_feed(config, source, sharding.make_mesh(), fields)
        batches[config.data.cache] = [jax.device_get(opened.take()[0]) for _ in range(3)]
        opened.close()
    assert batches["none"][0].keys() == {"image", "tokens", "mask"}
    for cache in ("host", "device"):
        jax.tree.map(np.testing.assert_array_equal, batches[cache], batches["none"])


@pytest.mark.parametrize("preset", ["", "small"])
def test_full_size_recipes_have_a_state(preset):
    config = importlib.import_module("configs.convirt").get_config(preset)
    if not preset:
        with pytest.raises(ValueError, match="name a file of BERT's there"):
            objectives.build(config)
        config.objective.text.weights = "bert.safetensors"
    made = step.prepare(config, objectives.build(config), 200_000)
    state, batch = made.shapes()
    assert batch["tokens"].shape == (config.batch_size, 64)
    text = jax.tree.leaves((state.params["text"], state.aux["frozen_text"]))
    count = sum(leaf.size for leaf in text)
    # BERT's base, cased, as its publishers count it, without pooler and second segment.
    assert count == (108_310_272 - 590_592 - 2 * 768 if not preset else count)


def test_a_dataset_without_reports_is_refused_and_leaves_no_workdir(
    tiny_config, studies_dir, tmp_path
):
    config = tiny_config("convirt")
    config.data.name, config.data.dir, config.batch_size = "image_folder", str(studies_dir), 4
    with pytest.raises(ValueError, match="dataset image_folder has no reports"):
        pretrain.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
