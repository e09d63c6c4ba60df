"""DINOv2: DINO's loss on images and iBOT's on hidden patches, with balanced assignments.

Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision", arXiv:2304.07193, its
official code, and iBOT, arXiv:2111.07832. config.model is a ViT with a class token; config.views
are DINO's. Fields of config.objective:

hidden               both heads' hidden widths; (2048, 2048)
bottleneck           what they lead to, before the prototypes; 256
prototypes           to which images are assigned, and as many for patches; 131072
num_local            small crops of an image; 8
student_temperature  of its softmax over prototypes; .1
teacher_temperature  of the teacher's, from the first to the second, linearly; (.04, .07)
teacher_warmup       share of the training in which it changes; .3
tau_base             the teacher's decay, which goes to 1 as BYOL's does; .994
mask_ratio           fewest and most of a crop's patches that are hidden; (.1, .5)
patch_weight         of the loss of patches; 1
koleo_weight         of what keeps class tokens apart; .1

Of an image's two large crops the student sees one with patches hidden, drawn anew each time (half
of all crops are, in the code), in blocks as BEiT's. Assignments are balanced over the whole batch
by three rounds of Sinkhorn-Knopp, and so are nearest neighbours in KoLeo, which the code seeks on
each device. The teacher is what is evaluated and exported.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import logsumexp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from cxr_jax import models
from cxr_jax.augment.views import augment_view
from cxr_jax.config import Section, check_values
from cxr_jax.models.vit import ViT
from cxr_jax.objectives import Objective, _networks, byol, dino, l2_normalise
from cxr_jax.objectives.mae import take

_FIELDS = (
    *("name", "hidden", "bottleneck", "prototypes", "num_local", "student_temperature"),
    *("teacher_temperature", "teacher_warmup", "tau_base"),
    *("mask_ratio", "patch_weight", "koleo_weight"),
)
_METRICS = (
    *(*_networks.COLLAPSE_METRICS, "target_entropy", "prototypes_used", "teacher_temperature"),
    *("image_loss", "patch_loss", "koleo"),
)
_BLOCKS = 8  # of which a crop's hidden patches are made


def sinkhorn(
    logits: Float[Array, "n k"], valid: Bool[Array, "n"], rounds: int = 3
) -> Float[Array, "n k"]:
    """Returns assignments of the valid rows that use all prototypes alike; float32, rows sum to 1.

    `logits` are divided by the temperature already (Sinkhorn-Knopp, as SwAV's, arXiv:2006.09882).

    >>> sinkhorn(jnp.array([[9.0, 0.0], [9.0, 0.0]]), jnp.ones(2, bool)).tolist()
    [[0.5, 0.5], [0.5, 0.5]]
    """
    x, counted = logits.astype(jnp.float32), valid[:, None].astype(jnp.float32)
    for _ in range(rounds):
        x = x - logsumexp(x, axis=0, keepdims=True, b=counted)
        x = x - logsumexp(x, axis=1, keepdims=True)
    return jnp.exp(x)


def koleo(embeddings: Float[Array, "n d"]) -> Float[Array, ""]:
    """Returns minus the mean log distance of each direction to the nearest other, float32.

    Kozachenko and Leonenko's estimate of the entropy, up to constants (arXiv:1806.03198).
    """
    x = l2_normalise(embeddings)
    cosines = jnp.matmul(x, x.T, precision=jax.lax.Precision.HIGHEST)
    nearest = jnp.argmax(jnp.where(jnp.eye(len(x), dtype=bool), -1, cosines), axis=1)
    apart = jnp.sqrt(jnp.sum((x - x[nearest] + 1e-8) ** 2, axis=1))
    return -jnp.log(apart + 1e-8).mean()


def patch_loss(
    student: Float[Array, "b m k"],
    target: Float[Array, "b m k"],
    weight: Float[Array, "b m"],
    temperature: float,
) -> Float[Array, ""]:
    """Returns the hidden patches' cross entropy: `weight` times it, mean over all large crops.

    An image has two, of which one has hidden patches.
    """
    logs = jax.nn.log_softmax(student.astype(jnp.float32) / temperature)
    return -jnp.sum(weight * jnp.sum(target * logs, axis=-1)) / (2 * len(weight))


def draw_masks(
    key: PRNGKeyArray, images: int, side: int, ratio: tuple[float, float]
) -> tuple[Int[Array, "b m"], Bool[Array, "b m"]]:
    """Draws for every image patches to hide: m of them, and which of these do count.

    Their share is uniform between both ends of `ratio`; m has room for the second. They lie in
    rectangles (Bao et al., BEiT, arXiv:2106.08254), and where these overlap too much, anywhere.
    """
    fewest, most = (max(1, int(share * side * side)) for share in ratio)
    row, column = jnp.divmod(jnp.arange(side * side), side)

    def block(key: PRNGKeyArray, hidden: Array) -> Array:
        area_key, shape_key, top_key, left_key = jax.random.split(key, 4)
        area = jax.random.uniform(area_key, (), minval=4.0, maxval=jnp.maximum(hidden, 4.0) + 1e-3)
        ratio = jnp.exp(jax.random.uniform(shape_key, (), minval=-1, maxval=1) * jnp.log(0.3))
        sides = jnp.sqrt(jnp.stack([area * ratio, area / ratio]))
        height, width = jnp.clip(jnp.round(sides).astype(jnp.int32), 1, side)
        top = jax.random.randint(top_key, (), 0, side - height + 1)
        left = jax.random.randint(left_key, (), 0, side - width + 1)
        return (row >= top) & (row < top + height) & (column >= left) & (column < left + width)

    def of_one(key: PRNGKeyArray) -> tuple[Array, Array]:
        count_key, order_key, *keys = jax.random.split(key, 2 + _BLOCKS)
        hidden = jax.random.randint(count_key, (), fewest, most + 1)
        inside = jax.vmap(lambda key: block(key, hidden))(jnp.stack(keys))
        first = jnp.where(inside.any(axis=0), jnp.argmax(inside, axis=0), _BLOCKS)
        order = jnp.argsort(first + jax.random.uniform(order_key, first.shape))
        return order[:most], jnp.arange(most) < hidden

    return jax.vmap(of_one)(jax.random.split(key, images))


def all_tokens(
    encoder: ViT,
    images: Float[Array, "n h w 1"],
    hidden: Bool[Array, "n i j"] | None = None,
    token: Float[Array, "d"] | None = None,
) -> Float[Array, "n t d"]:
    """Returns all tokens of a bound ViT, `token` in place of the patches `hidden`."""
    patches = encoder.embed(images, hidden, token)
    angles = encoder.angles(*patches.shape[1:3])
    return encoder.encode(patches.reshape(len(patches), -1, encoder.width), angles)


def make(config: Section) -> Objective:
    """Raises ValueError for fields of config.model, .objective or .views that do not fit."""
    fields, views, encoder = config["objective"], config["views"], models.build(config["model"])
    _check(fields, views, encoder)
    side, heads = views["a"]["size"] // encoder.patch, {}
    for name in ("", "patch_"):
        sizes = (_networks.widths(fields["hidden"]), fields["bottleneck"], encoder.dtype)
        heads[f"{name}bottleneck"] = dino.Bottleneck(*sizes)
        heads[f"{name}prototypes"] = dino.Prototypes(fields["prototypes"])

    def assign(params, tokens, name):
        """Returns (directions, cosines to the prototypes) of tokens [… d]."""
        x = tokens.reshape(-1, tokens.shape[-1])
        parts = []
        for part in (f"{name}bottleneck", f"{name}prototypes"):
            x = heads[part].apply({"params": params[part]}, x, train=True)
            parts.append(x.reshape(*tokens.shape[:-1], -1))
        return parts

    def init(key, batch):
        key, *keys = jax.random.split(key, 1 + len(heads))
        images = jnp.zeros((1, views["a"]["size"], views["a"]["size"], 1))
        params = {"encoder": encoder.init(key, images, train=False)["params"]}
        for key, (name, head) in zip(keys, heads.items()):
            width = fields["bottleneck"] if name.endswith("prototypes") else encoder.width
            params[name] = head.init(key, jnp.zeros((1, width)), train=False)["params"]
        # A copy: a state in which two leaves are one buffer cannot be donated.
        teacher = {"params": jax.tree.map(jnp.copy, params), "batch_stats": {"encoder": {}}}
        aux = {"batch_stats": {"encoder": {}}, "teacher": teacher, "step": jnp.zeros((), jnp.int32)}
        return params | {"mask_token": jnp.zeros(encoder.width)}, aux

    def embed(params, aux, batch, key):
        images, b = batch["image"], len(batch["image"])
        key_a, key_b, local_key, mask_key, side_key = jax.random.split(key, 5)
        both = [augment_view(key_a, images, views["a"]), augment_view(key_b, images, views["b"])]
        # Those of an image side by side, so that the batch stays split over the devices as it came.
        large = jnp.stack(both, axis=1).reshape(2 * b, *both[0].shape[1:])
        chosen, counts = draw_masks(mask_key, b, side, fields["mask_ratio"])
        second = jax.random.bernoulli(side_key, shape=(b,))
        hidden = jnp.zeros((b, side * side), bool).at[jnp.arange(b)[:, None], chosen].set(counts)
        of_crop = jnp.stack([~second, second], axis=1)[..., None] & hidden[:, None]

        def run(params, images, crops, *masks):
            tokens = encoder.apply({"params": params["encoder"]}, images, *masks, method=all_tokens)
            return tokens.reshape(b, crops, *tokens.shape[1:])

        def hidden_patches(tokens):
            of = jnp.where(second[:, None, None], tokens[:, 1], tokens[:, 0])
            return take(of[:, encoder.num_prefix :], chosen)

        masks = (of_crop.reshape(2 * b, side, side), params["mask_token"])
        seen, fixed = run(params, large, 2, *masks), run(aux["teacher"]["params"], large, 2)
        classes = [seen[:, :, 0]]
        if count := fields["num_local"]:
            local = partial(augment_view, images=images, view=views["local"])
            small = jax.vmap(local, out_axes=1)(jax.random.split(local_key, count))
            classes.append(run(params, small.reshape(b * count, *small.shape[2:]), count)[:, :, 0])
        of_teacher = aux["teacher"]["params"]
        directions, teacher = assign(of_teacher, fixed[:, :, 0], "")
        return {
            "student": assign(params, jnp.concatenate(classes, axis=1), "")[1],
            "teacher": teacher,
            "patch_student": assign(params, hidden_patches(seen), "patch_")[1],
            "patch_teacher": assign(of_teacher, hidden_patches(fixed), "patch_")[1],
            "patch_weight": counts / counts.sum(axis=1, keepdims=True),
            "class": classes[0],
            "embedding": directions[:, 0],
        }, aux

    def loss_from_outputs(outputs, aux):
        ends, warmup = fields["teacher_temperature"], fields["teacher_warmup"]
        sharpness = dino.teacher_temperature(aux["step"], config["num_train_steps"], ends, warmup)
        weight = jax.lax.stop_gradient(outputs["patch_weight"])

        def targets(cosines, valid):
            cosines = jax.lax.stop_gradient(cosines)
            flat = cosines.reshape(-1, cosines.shape[-1]) / sharpness
            return sinkhorn(flat, valid.reshape(-1)).reshape(cosines.shape)

        of_images = targets(outputs["teacher"], jnp.ones(outputs["teacher"].shape[:2], bool))
        of_patches = targets(outputs["patch_teacher"], weight > 0)
        softness = fields["student_temperature"]
        image_loss = dino.view_loss(outputs["student"], of_images, softness)
        patches = patch_loss(outputs["patch_student"], of_patches, weight, softness)
        spread = koleo(outputs["class"][:, 0]) + koleo(outputs["class"][:, 1])
        value = image_loss + fields["patch_weight"] * patches + fields["koleo_weight"] * spread
        metrics = _networks.collapse_metrics(jax.lax.stop_gradient(outputs["embedding"]))
        metrics |= _networks.assignment_metrics(of_images)
        metrics["teacher_temperature"] = jnp.asarray(sharpness, jnp.float32)
        parts = {"image_loss": image_loss, "patch_loss": patches, "koleo": spread}
        return value, (aux, metrics | parts)

    def after_update(params: Any, aux: Any, step: Any) -> Any:
        rate = 1 - byol.tau(step, config["num_train_steps"], fields["tau_base"])
        followed = _networks.ema_update(aux["teacher"]["params"], params, rate)
        return aux | {"teacher": aux["teacher"] | {"params": followed}, "step": step + 1}

    features = partial(_networks.features, {"encoder": encoder}, exported=dino.teacher_encoder)
    return Objective(
        *(init, embed, loss_from_outputs, after_update, features, _METRICS),
        exported=dino.teacher_encoder,
        collapse_advice="lower config.optimizer.learning_rate, or raise config.objective.tau_base",
    )


def _check(fields: Section, views: Section, encoder: Any) -> None:
    if not isinstance(encoder, ViT):
        raise ValueError("DINOv2 hides patches from a ViT; config.model.name must be 'vit'")
    if encoder.pooling != "class" or encoder.norm_after_pooling or encoder.projection:
        raise ValueError(
            "DINOv2 trains the class token: config.model needs pooling='class', "
            "norm_after_pooling=False and projection=0"
        )
    dino.check(fields, views, _FIELDS)
    low, high = fields["mask_ratio"] if len(fields["mask_ratio"]) == 2 else (1, 0)
    check_values(
        *(fields, "config.objective"),
        ("mask_ratio", 0 < low <= high < 1, "(fewest, most), both above 0 and below 1"),
        ("patch_weight", fields["patch_weight"] >= 0, "0 or more"),
        ("koleo_weight", fields["koleo_weight"] >= 0, "0 or more"),
    )
