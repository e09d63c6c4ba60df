"""GLoRIA against NumPy: words and regions, both losses, what the towers give; wrong fields."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_jax import models, objectives
from cxr_jax.augment.views import augment_view
from cxr_jax.models.bert import make_text_encoder
from cxr_jax.models.resnet import ResNet
from cxr_jax.objectives import gloria

KEY = jax.random.PRNGKey(0)
QUICKLY = {"xla_backend_optimization_level": 0}


def softmax(x, axis):
    x = np.exp(x - x.max(axis=axis, keepdims=True))
    return x / x.sum(axis=axis, keepdims=True)


def matches(regions, words, count):
    """One image and one report, as the official code: sharpened by 4 and 5."""
    words = words[:count]
    attention = softmax(regions @ words.T, axis=1)  # of a region, over words
    attention = softmax(4 * attention, axis=0)
    seen = attention.T @ regions
    cosines = (seen * words).sum(axis=1)
    cosines /= np.linalg.norm(seen, axis=1) * np.linalg.norm(words, axis=1)
    return np.log(np.exp(5 * cosines).sum())


def both_ways(logits):
    own = np.arange(len(logits))
    return sum(-np.log(softmax(x, axis=1)[own, own]).mean() for x in (logits, logits.T))


def test_words_find_regions_as_in_the_official_code():
    rng = np.random.default_rng(0)
    regions, words = rng.normal(size=(5, 9, 4)), rng.normal(size=(3, 6, 4))
    counts = [6, 2, 1]
    expected = [[matches(r, w, n) for w, n in zip(words, counts)] for r in regions]
    real = jnp.arange(6) < jnp.array(counts)[:, None]
    arrays = (jnp.asarray(x, jnp.float32) for x in (regions, words))
    found = gloria.local_similarities(*arrays, real, 0.25, 0.2)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_pieces_are_counted_to_their_words():
    vocabulary = {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "pneumo": 3, "##thorax": 4, "no": 5, ".": 6}
    said = {"model": {"type": "WordPiece", "vocab": vocabulary}}
    continues = gloria.continuing_pieces(json.dumps(said))
    tokens = np.array([[1, 5, 3, 4, 6, 2, 0], [1, 3, 4, 4, 2, 0, 0]])
    mask = np.array([[True] * 6 + [False], [True] * 5 + [False] * 2])
    found = gloria.number_words(tokens, mask, continues)
    assert found.tolist() == [[0, 1, 2, 2, 3, 4, -1], [0, 1, 1, 1, 2, -1, -1]]
    with pytest.raises(ValueError, match="of the kind BPE: gloria joins pieces"):
        gloria.continuing_pieces(json.dumps({"model": {"type": "BPE", "vocab": {"a": 0}}}))


def test_losses_are_numpys_and_towers_give_what_they_say(tiny, batch):
    config = tiny("gloria", tiny.plain)
    objective = objectives.build(config)
    params, aux = jax.jit(objective.init, compiler_options=QUICKLY)(KEY, batch)

    def loss(params):
        outputs, after = objective.embed(params, aux, batch, KEY)
        value, (after, metrics) = objective.loss_from_outputs(outputs, after)
        return value, (outputs, after, metrics)

    run = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=QUICKLY)
    (value, (outputs, after, metrics)), slopes = run(params)
    o = {name: np.asarray(x, np.float64) for name, x in outputs.items()}
    unit = [o[x] / np.linalg.norm(o[x], axis=1, keepdims=True) for x in ("image", "text")]
    of_all = both_ways(10 * unit[0] @ unit[1].T)
    # The beginning and the words but the end; the shortest text is its beginning alone.
    counts = [4, 1, 3, 1, 3, 2, 4, 1]
    assert o["real"].sum(axis=1).tolist() == counts
    pairs = zip(o["words"], counts)
    found = np.array([[matches(r, w, n) for r in o["regions"]] for w, n in pairs]).T
    of_parts = both_ways(10 * found)
    np.testing.assert_allclose(metrics["global_loss"], of_all, rtol=1e-4)
    np.testing.assert_allclose(metrics["local_loss"], of_parts, rtol=1e-4)
    np.testing.assert_allclose(value, of_all + 0.5 * of_parts, rtol=1e-4)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(slopes))
    assert jax.tree.structure(after) == jax.tree.structure(aux)
    # Regions are of the ResNet without its last stage.
    encoder = models.build(config["model"])
    short = ResNet(encoder.stage_sizes[:-1], encoder.widths[:-1], stem_stride=4, max_pool=False)
    variables = {"params": params["encoder"], "batch_stats": aux["batch_stats"]["encoder"]}

    def of_images(variables, images):
        images = augment_view(KEY, images, config["views"]["a"])
        return short.apply(variables, images, True, method="maps", mutable=["batch_stats"])

    maps, _ = jax.jit(of_images, compiler_options=QUICKLY)(variables, batch["image"])
    expected = np.asarray(maps).reshape(8, 16, 64) @ params["regions"]["kernel"]
    np.testing.assert_allclose(outputs["regions"], expected, atol=1e-4)
    # A word is the sum of its pieces, and both of the last two blocks.
    shape = config["objective"]["text"] | {"last": 1}
    shape = {name: x for name, x in shape.items() if name not in ("weights", "frozen_layers")}
    last, kept = make_text_encoder(shape, ""), params["text"]
    first = make_text_encoder(shape | {"num_blocks": 1}, "")
    whole = make_text_encoder(shape | {"last": 2}, "")

    def of_texts(kept):
        given = {"params": kept}, batch["tokens"], batch["mask"]
        states = sum(tower.apply(*given, method="states") for tower in (first, last))
        return states, whole.apply(*given)

    states, vectors = jax.jit(of_texts, compiler_options=QUICKLY)(kept)
    np.testing.assert_allclose(outputs["words"][0, 1], states[0, 1] + states[0, 2], atol=1e-5)
    np.testing.assert_allclose(outputs["words"][1, 1], states[1, 1] + states[1, 2], atol=1e-5)
    # The tower that is kept gives the reports' vectors.
    np.testing.assert_allclose(outputs["text"], vectors, atol=1e-5)
    assert objective.text(params, aux)["heads"].keys() == {"image"}


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(word_temperature=0.0), r"word_temperature is 0\.0; it must be above 0"),
        (dict(local_weight=-1.0), r"local_weight is -1\.0; it must be 0 or more"),
        (dict(hidden=(8,)), "has no field 'hidden'"),
    ],
)
def test_wrong_gloria_fields_are_named(tiny, change, message):
    config = tiny("gloria")
    config["objective"] |= change
    with pytest.raises(ValueError, match=message):
        objectives.build(config)


def test_gloria_needs_a_resnet_and_the_mean_of_tokens(tiny):
    config = tiny("gloria")
    config["objective"]["text"]["last"] = 3
    with pytest.raises(ValueError, match=r"text\.last is 3; of 2 it must be 1 or more"):
        objectives.build(config)
    config["objective"]["text"] |= dict(pooling="max", last=2)
    with pytest.raises(ValueError, match=r"text\.pooling is 'max'; gloria's is 'mean'"):
        objectives.build(config)
    config["model"] = dict(tiny.vit)
    with pytest.raises(ValueError, match=r"config\.model\.name must be 'resnet'"):
        objectives.build(config)
