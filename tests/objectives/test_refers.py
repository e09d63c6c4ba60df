"""REFERS against NumPy: fused views, the report that is written, contrast; images; wrong fields."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from cxr_jax import models, objectives
from cxr_jax.augment.views import augment_view
from cxr_jax.data.order import by_group, rows
from cxr_jax.data.source import load_source
from cxr_jax.models._layers import MLP
from cxr_jax.models.bert import make_text_encoder
from cxr_jax.objectives import _image_text, refers
from cxr_jax.objectives.dinov2 import all_tokens

KEY = jax.random.PRNGKey(0)
QUICKLY = {"xla_backend_optimization_level": 0}


def dense(p, x):
    return x @ p["kernel"] + p["bias"]


def norm(p, x):
    x = x - x.mean(axis=-1, keepdims=True)
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-8) * p["scale"] + p["bias"]


def attend(p, name, x, to, causal):
    q, k, v = (dense(p[f"{name}_{part}"], y) for part, y in zip("qkv", (x, to, to)))
    out = []
    for head in range(2):
        part = slice(8 * head, 8 * head + 8)
        scores = q[..., part] @ k[..., part].swapaxes(1, 2) / np.sqrt(8)
        if causal:
            scores = np.where(np.tril(np.ones(scores.shape[1:])), scores, -np.inf)
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        out.append(shares / shares.sum(axis=-1, keepdims=True) @ v[..., part])
    return dense(p[f"{name}_proj"], np.concatenate(out, axis=-1))


def log_softmax(x, axis):
    x = x - x.max(axis=axis, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=axis, keepdims=True))


def test_loss_is_numpys(tiny, batch):
    config = tiny("refers", tiny.plain)
    objective = objectives.build(config)
    batch = batch | {f"view_{i}": jnp.roll(batch["image"], i, axis=0) for i in (1, 2)}
    params, aux = jax.jit(objective.init, compiler_options=QUICKLY)(KEY, batch)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: x + rng.normal(0, 0.05, x.shape).astype(np.float32), params)

    # The same with batch norm of both.
    config["objective"]["head_bn"] = True
    with_norm, scale = objectives.build(config), {"bn_out": {"scale": jnp.linspace(0.5, 2, 192)}}
    kernel = {"kernel": params["text_projector"]["dense_out"]["kernel"]}
    own = params | {"projector": scale, "text_projector": scale | {"dense_out": kernel}}
    start = {"bn_out": {"mean": jnp.zeros(192), "var": jnp.ones(192)}}
    stats = {"encoder": {}, "projector": start, "text_projector": start}
    own_aux = aux | {"batch_stats": stats}

    def loss(params):
        outputs, after = objective.embed(params, aux, batch, KEY)
        value, (_, metrics) = objective.loss_from_outputs(outputs, after)
        changed = {name: own[name] for name in ("projector", "text_projector")}
        normed, after = with_norm.embed(params | changed, own_aux, batch, KEY)
        return value, (metrics, {name: normed[name] for name in ("image", "text")}, after)

    run = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=QUICKLY)
    (value, (metrics, normed, own_aux)), slopes = run(params)
    for path, slope in jax.tree_util.tree_leaves_with_path(slopes):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        assert np.any(slope) or name.endswith("_k/bias")  # which changes no softmax
    # What is seen: each view by the encoder, weighed by what all show.
    encoder, view = models.build(config["model"]), config["views"]["a"]
    shape = {x: y for x, y in config["objective"]["text"].items()}
    del shape["weights"], shape["frozen_layers"]
    tower = make_text_encoder(shape, "")

    def see(params, views):
        images = jnp.concatenate([augment_view(KEY, one, view) for one in views])
        seen = encoder.apply({"params": params["encoder"]}, images, method=all_tokens)
        vectors = tower.apply({"params": params["text"]}, batch["tokens"], batch["mask"])
        return seen, vectors, objective.features(params, aux, images[:8])

    views = [batch["image"], batch["view_1"], batch["view_2"]]
    seen, vectors, features = jax.jit(see, compiler_options=QUICKLY)(params, views)
    seen = np.asarray(seen, np.float64).reshape(3, 8, 17, 64)
    patches = seen[:, :, 1:] + seen[:, :, :1]
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    shares = dense(p["fusion"], np.concatenate(list(patches), axis=-1))
    fused = [one / (1 + np.exp(-shares[..., i : i + 1])) for i, one in enumerate(patches)]
    memory = np.stack(fused, axis=2).reshape(8, 48, 64)  # attention has no order
    # The report, each word from those before it.
    p, tokens, mask = p["decoder"], np.asarray(batch["tokens"]), np.asarray(batch["mask"])
    x = norm(p["norm"], p["word"][tokens[:, :-1]] + p["position"][:6])
    memory = dense(p["seen"], memory)
    x = norm(p["norm1_0"], x + attend(p, "self_0", x, x, True))
    x = norm(p["norm2_0"], x + attend(p, "seen_0", x, memory, False))
    y = dense(p["fc1_0"], x)
    x = norm(p["norm3_0"], x + dense(p["fc2_0"], y * (1 + erf(y / np.sqrt(2))) / 2))
    logs = log_softmax(x @ p["word"].T + p["bias"], axis=-1)
    missed = -np.take_along_axis(logs, tokens[:, 1:, None], axis=-1)[..., 0]
    generation = missed[mask[:, 1:]].mean()
    np.testing.assert_allclose(metrics["generation_loss"], generation, rtol=1e-4)
    # Studies and reports.
    texts = dense(params["text_projector"]["dense_out"], np.asarray(vectors, np.float64))
    studies = np.concatenate(list(seen[:, :, 0]), axis=-1)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (studies, texts)]
    logits, each = unit[0] @ unit[1].T / 0.1, np.arange(8)
    to_text, to_image = (-log_softmax(logits, axis)[each, each].mean() for axis in (1, 0))
    contrast = 0.75 * to_text + 0.25 * to_image
    np.testing.assert_allclose(metrics["contrast_loss"], contrast, rtol=1e-4)
    np.testing.assert_allclose(value, contrast + generation, rtol=1e-4)
    plain = (studies, texts - np.asarray(params["text_projector"]["dense_out"]["bias"]))
    for name, x in zip(("image", "text"), plain):
        wanted = (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-5) * scale["bn_out"]["scale"]
        np.testing.assert_allclose(normed[name], wanted, atol=2e-3)
    means = own_aux["batch_stats"]["projector"]["bn_out"]["mean"]
    np.testing.assert_allclose(means, 0.1 * studies.mean(axis=0), atol=1e-4)
    kept = with_norm.text(own, own_aux)["heads"]["image"]
    head = MLP(hidden=(), out=192, hidden_bn=False, out_bn=True)
    first = jnp.asarray(seen[0, :, 0], jnp.float32)
    wanted = np.tile(first, 3) - means
    wanted *= scale["bn_out"]["scale"] / np.sqrt(kept["batch_stats"]["bn_out"]["var"] + 1e-5)
    np.testing.assert_allclose(head.apply(kept, first, False), wanted, atol=1e-3)
    # The kept tower takes one image's features for a study that shows it three times.
    kept = objective.text(params, aux)["heads"]["image"]
    head = MLP(hidden=(), out=192, hidden_bn=False, out_bias=True)
    np.testing.assert_allclose(
        head.apply(kept, features, False), np.tile(seen[0, :, 0], 3), atol=1e-4
    )


def test_views_are_of_the_study_and_large_studies_are_named(studies_dir, capsys):
    studies = ["s1"] * 2 + [""] + ["s2"] * 3 + ["s3"] * 4
    partners = by_group(["p"] * 10, studies)
    seen = {}
    for epoch in range(40):
        start = 10 * epoch
        drawn = refers.draw_views(partners, 3, 0, start, start + 10)
        own = rows(10, 0, start, start + 10)
        for image, *others in zip(own, drawn["view_1"], drawn["view_2"]):
            seen.setdefault(int(image), set()).add(tuple(map(int, others)))
    assert drawn["view_1"].dtype == np.int32
    assert seen[0] == {(1, 1)} and seen[1] == {(0, 0)} and seen[2] == {(2, 2)}
    assert seen[3] == {(4, 5), (5, 4)} and seen[5] == {(3, 4), (4, 3)}
    for others in seen[7]:
        assert len({7, *others}) == 3 and set(others) <= {6, 8, 9}
    assert {one for others in seen[7] for one in others} == {6, 8, 9}
    source = load_source("image_folder", str(studies_dir), "train")
    partners = by_group(*source.columns(("patient_id", "study_id")).values())
    most = int(partners.size.max())
    _image_text.name_large_studies(source, partners, 1, "the one that clip takes", "each alone")
    said = capsys.readouterr().out
    first = np.flatnonzero(partners.size > 1)
    ids = source.hashed("image", source.columns(("image_id",))["image_id"])
    where = f"studies of image_folder have more images than the one that clip takes, up to {most}"
    assert where in said and any(ids[row] in said for row in first)
    _image_text.name_large_studies(source, partners, most, "", "")
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(views=0), r"objective\.views=0 must be at least 1"),
        (dict(decoder_heads=3), "decoder_width is 16; it must be a multiple of its 3 heads"),
        (dict(image_weight=2.0), r"image_weight is 2\.0; it must be between 0 and 1"),
        (dict(hidden=8), "has no field 'hidden'"),
    ],
)
def test_wrong_refers_fields_are_named(tiny, change, message):
    config = tiny("refers")
    config["objective"] |= change
    with pytest.raises(ValueError, match=message):
        objectives.build(config)


def test_refers_needs_a_vit_with_a_class_token(tiny):
    config = tiny("refers")
    config["model"]["pooling"] = "mean"
    with pytest.raises(ValueError, match=r"config\.model needs pooling='class'"):
        objectives.build(config)
    config["model"] = dict(name="resnet", variant="small")
    with pytest.raises(ValueError, match=r"config\.model\.name must be 'vit'"):
        objectives.build(config)
