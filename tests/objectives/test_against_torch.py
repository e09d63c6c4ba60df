"""Losses and gradients against PyTorch in float64, written as the papers' pseudo-code has them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_jax.objectives import barlow, dino, moco, simsiam, vicreg

torch = pytest.importorskip("torch")
F = torch.nn.functional


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def assert_same(ours, theirs, *inputs, rtol=2e-5):
    """Value, and gradient by every input; both take arrays of the same shapes."""
    arrays = [jnp.asarray(x, jnp.float32) for x in inputs]
    value, gradients = jax.value_and_grad(ours, argnums=tuple(range(len(inputs))))(*arrays)
    tensors = [torch.tensor(x, requires_grad=True) for x in inputs]
    expected = theirs(*tensors)
    expected.backward()
    np.testing.assert_allclose(value, expected.item(), rtol=rtol)
    assert any(tensor.grad is not None for tensor in tensors)
    for gradient, tensor in zip(gradients, tensors):
        wanted = np.zeros(tensor.shape) if tensor.grad is None else tensor.grad.numpy()
        np.testing.assert_allclose(gradient, wanted, atol=1e-4 * max(np.abs(wanted).max(), 1e-3))


def test_simsiam():
    def theirs(p, z):
        return -F.cosine_similarity(p, z.detach(), dim=1).mean()

    assert_same(simsiam.negative_cosine, theirs, draw(9, 5), draw(9, 5, seed=1))


def test_barlow():
    def theirs(a, b):
        norm = torch.nn.BatchNorm1d(6, affine=False).double()
        c = norm(a).T @ norm(b) / len(a)
        difference = (c - torch.eye(6)).pow(2)
        weight = torch.full((6, 6), 0.3).fill_diagonal_(1)
        return (difference * weight).sum()

    a = draw(11, 6)
    assert_same(lambda a, b: barlow.barlow_loss(a, b, 0.3), theirs, a, a + draw(11, 6, seed=1))


def test_vicreg():
    def off_diagonal(x):
        n = len(x)
        return x.flatten()[:-1].view(n - 1, n + 1)[:, 1:].flatten()

    def theirs(a, b):
        total = 25 * F.mse_loss(a, b)
        for z in (a, b):
            z = z - z.mean(dim=0)
            total = total + 25 * F.relu(1 - torch.sqrt(z.var(dim=0) + 1e-4)).mean() / 2
            total = total + off_diagonal(z.T @ z / (len(z) - 1)).pow(2).sum() / z.shape[1]
        return total

    def ours(a, b):
        terms = vicreg.vicreg_terms(a, b)
        return 25 * terms["invariance"] + 25 * terms["variance"] + terms["covariance"]

    # Some dimensions fall short of a deviation of one and some do not.
    a = draw(11, 6) * [0.2, 0.5, 0.8, 1.5, 2.0, 3.0]
    assert_same(ours, theirs, a, a + 0.3 * draw(11, 6, seed=1))


def test_moco():
    queue = draw(30, 4, seed=2)
    queue /= np.linalg.norm(queue, axis=1, keepdims=True)

    def theirs(query, key):
        query, key = F.normalize(query), F.normalize(key).detach()
        positive = torch.einsum("nc,nc->n", query, key)[:, None]
        logits = torch.cat([positive, query @ torch.tensor(queue).T], dim=1) / 0.2
        return F.cross_entropy(logits, torch.zeros(len(query), dtype=torch.long))

    def ours(query, key):
        similar = moco.similarities(query, key, jnp.asarray(queue, jnp.float32))
        return moco.info_nce(*similar, 0.2)

    assert_same(ours, theirs, draw(7, 4), draw(7, 4, seed=1))


def test_dino():
    centre = 0.1 * draw(6, seed=3)

    def theirs(student, teacher):
        student = student / 0.1
        teacher = F.softmax((teacher - torch.tensor(centre)) / 0.05, dim=-1).detach()
        total, terms = 0, 0
        for t in range(2):
            for s in range(5):
                if s != t:
                    logs = F.log_softmax(student[:, s], dim=-1)
                    total = total + torch.sum(-teacher[:, t] * logs, dim=-1).mean()
                    terms += 1
        return total / terms

    def ours(student, teacher):
        return dino.dino_loss(student, teacher, jnp.asarray(centre, jnp.float32), 0.1, 0.05)

    assert_same(ours, theirs, 0.3 * draw(3, 5, 6), 0.3 * draw(3, 2, 6, seed=1))


def test_dino_head():
    bottleneck = dino.Bottleneck((8,), 5, "float32")
    prototypes = dino.Prototypes(7)
    x = draw(4, 6)
    z, first = bottleneck.init_with_output(jax.random.PRNGKey(0), jnp.asarray(x, jnp.float32), True)
    logits, last = prototypes.init_with_output(jax.random.PRNGKey(1), z, True)
    layers = [np.asarray(first["params"][f"dense{i}"]["kernel"]) for i in range(2)]
    hidden = F.gelu(torch.tensor(x) @ torch.tensor(layers[0]).double())
    expected = F.normalize(hidden @ torch.tensor(layers[1]).double(), dim=-1)
    np.testing.assert_allclose(z, expected.numpy(), atol=1e-5)
    linear = torch.nn.Linear(5, 7, bias=False).double()
    linear.weight.data = torch.tensor(np.asarray(last["params"]["kernel"]).T).double()
    normed = torch.nn.utils.parametrizations.weight_norm(linear)
    normed.parametrizations.weight.original0.data.fill_(1)
    np.testing.assert_allclose(logits, normed(expected).detach().numpy(), atol=1e-5)
