"""Mean teacher: its formulas, one step, and images without labels that teach."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from sklearn.metrics import roc_auc_score

from cxr_jax.objectives import supervised
from cxr_jax.training.step import make_train_step
from tests.fakes.plain_view import PLAIN
from tests.objectives.test_supervised import TARGETS, Tiny, first_state, jitted_step

FIELDS = {"weight": 0.0, "decay": 0.6, "ramp_up": 0.5, "unlabelled_batch_size": 4}


def test_the_weight_rises_by_the_papers_sigmoid():
    assert supervised.ramp_up(0, 10) == pytest.approx(np.exp(-5))
    assert supervised.ramp_up(jnp.int32(5), 10) == pytest.approx(np.exp(-1.25))
    assert supervised.ramp_up(10, 10) == supervised.ramp_up(99, 10) == 1
    assert supervised.ramp_up(0, 0) == 1


def test_the_average_is_a_plain_mean_until_the_decay_is_reached():
    students = np.array([5.0, 1.0, 4.0, -2.0])
    teacher = students[0]
    for step, student in enumerate(students[1:], start=1):
        kept = float(supervised.decay(step, 0.999))
        teacher = kept * teacher + (1 - kept) * student
        assert teacher == pytest.approx(students[: step + 1].mean(), rel=1e-6)
    assert supervised.decay(10**6, 0.999) == pytest.approx(0.999)


@pytest.mark.parametrize("exclusive", [False, True])
def test_disagreement_is_that_of_probabilities_and_moves_the_student_alone(exclusive):
    a, b = np.random.default_rng(0).normal(size=(2, 5, 3))
    if exclusive:
        chances = [np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (a, b)]
    else:
        chances = [1 / (1 + np.exp(-x)) for x in (a, b)]
    value, gradients = jax.value_and_grad(supervised.consistency, (0, 1))(
        jnp.asarray(a), jnp.asarray(b), exclusive
    )
    assert value == pytest.approx(np.mean((chances[0] - chances[1]) ** 2), rel=1e-5)
    assert np.abs(gradients[0]).max() > 0 and not np.asarray(gradients[1]).any()


def test_a_step_moves_the_teacher_by_the_average_and_at_weight_zero_is_plain_fine_tuning():
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (10, 4, 4, 1), dtype=np.uint8)
    images = blocks.repeat(4, axis=1).repeat(4, axis=2)
    batch = {"image": images[:6], "target": rng.integers(0, 2, (6, 2)).astype(np.float32)}
    model, optimizer, view = Tiny(), optax.sgd(0.5), PLAIN | {"size": 16}
    variables = model.init(jax.random.key(0), jnp.zeros((1, 16, 16, 1)), train=False)
    alone = supervised.objective(model, variables, 8, TARGETS, view)
    plain, plain_step = first_state(alone, optimizer), jitted_step(alone, optimizer)

    def taught(weight):
        fields = FIELDS | {"weight": weight, "ramp_up": 0.0}
        return supervised.with_teacher(alone, model, view, False, fields, 10)

    state, step = first_state(taught(0.0), optimizer), jitted_step(taught(0.0), optimizer)
    for number in (1, 2):
        before = state.aux["teacher"]
        state, metrics = step(state, batch)
        plain, expected = plain_step(plain, batch)
        assert metrics["loss"] == pytest.approx(float(expected["loss"]), rel=1e-5)
        kept = min(1 - 1 / (number + 1), 0.6)
        jax.tree.map(
            lambda now, old, new, kept=kept: np.testing.assert_allclose(
                now, kept * old + (1 - kept) * new, rtol=1e-5, atol=1e-6
            ),
            *(state.aux["teacher"]["params"], before["params"], state.params),
        )
    alike = ((each.params, each.aux["batch_stats"]) for each in (state, plain))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *alike)
    # Images without labels reach the student through the disagreement alone, and its statistics.
    more = batch | {"unlabelled": images[6:]}
    still, moved = (jitted_step(taught(w), optimizer)(state, more)[0] for w in (0.0, 5.0))
    heads = [each.params["head"]["kernel"] for each in (still, moved)]
    assert np.abs(heads[0] - heads[1]).max() > 1e-4
    stats = [each.aux["batch_stats"]["encoder"]["norm"]["mean"] for each in (state, still)]
    without = step(state, batch)[0].aux["batch_stats"]["encoder"]["norm"]["mean"]
    assert np.abs(stats[1] - without).max() > 1e-4
    # What is scored and exported is the teacher.
    network = supervised.scored_network(state.params, state.aux)
    exported = taught(0.0).exported(state.params, state.aux)
    assert network == state.aux["teacher"] and exported["params"] == network["params"]["encoder"]


class Pixels(nn.Module):
    """The upper two of four pixels: under the head, a linear classifier."""

    @nn.compact
    def __call__(self, images, train):
        scale = self.param("scale", nn.initializers.constant(4.0), ())
        return scale * (images[:, 0, :, 0] - 0.5)


def steps_up_or_down(rng, count, brighter):
    """Images labelled by which pixel is the brighter one; `brighter`: so is the whole image."""
    label = np.arange(count) % 2
    light = np.where(label, 0.7, 0.3) if brighter else rng.uniform(0.2, 0.8, count)
    step = 0.12 * (2 * label - 1)
    images = np.zeros((count, 2, 2, 1), np.uint8)
    images[:, 0, :, 0] = 255 * light[:, None] * (1 + np.stack([step, -step], axis=1))
    return images, np.stack([label, 1 - label], axis=1).astype(np.float32)


def test_agreement_on_images_without_labels_lifts_the_auroc():
    # The labels alone say that bright images are positive; that brightness says nothing of the
    # answer, other images teach in views of other brightness.
    rng = np.random.default_rng(0)
    images, targets = steps_up_or_down(rng, 8, brighter=True)
    others, _ = steps_up_or_down(rng, 64, brighter=False)
    test, truth = steps_up_or_down(rng, 200, brighter=False)
    model, optimizer, steps = Pixels(), optax.adam(0.05), 200
    view = PLAIN | {"size": 2, "brightness": 0.4, "jitter_prob": 1.0}
    variables = model.init(jax.random.key(0), jnp.zeros((1, 2, 2, 1)), False)
    plain = supervised.objective(model, {"batch_stats": {}, **variables}, 2, targets, view)
    labelled = {"image": images, "target": jnp.asarray(targets)}

    def auroc(weight, batch):
        fields = FIELDS | {"weight": weight, "decay": 0.9, "ramp_up": 0.3}
        made = supervised.with_teacher(plain, model, view, False, fields, steps)
        step = make_train_step(made, optimizer, lambda step: 1.0)

        @jax.jit
        def train(state):
            return jax.lax.scan(lambda s, _: step(s, batch), state, None, length=steps)[0]

        teacher = train(first_state(made, optimizer)).aux["teacher"]
        scores = supervised.make_scores(model)(teacher, test)
        return roc_auc_score(truth[:, 0], scores[:, 0])

    without, alone, beside = (
        auroc(*case)
        for case in ((0.0, labelled), (10.0, labelled), (10.0, labelled | {"unlabelled": others}))
    )
    assert without < 0.75 and alone < 0.85
    assert beside > 0.95
