"""Region mutual information loss (Zhao, Wang, Yang, Cai, NeurIPS 2019).

A pixel and its neighbours make a vector: of labels a, of probabilities p. The loss maximises a
lower bound of their mutual information, I(a; p) >= -1/2 log det(cov(a | p)) + const (equation 12).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from openseg_jax.data.dataset import IGNORE
from openseg_jax.models.layers import max_pool

RIDGE = 1e-3  # added to the diagonal of covariances, which are sums over positions, not means
LEAST_PROBABILITY = 1e-6


def rmi_loss(
    logits: jax.Array,
    labels: jax.Array,
    balance: float = 0.5,
    radius: int = 3,
    pool: int = 3,
) -> jax.Array:
    """`balance` x binary cross entropy + (1 - `balance`) x `region_uncertainty`.

    Source: the losses `rmi_loss` and `fs_aux_rmi_loss` of the original's branch pytorch-1.7.
    Every class is a binary problem of its own (sigmoid, not softmax).

    Args:
        logits: (n, h, w, k), at least float32.
        labels: (n, h, w) integers, 0..k-1 or IGNORE.
        radius: vectors hold a window of radius x radius pixels of the pooled maps.
        pool: size and stride of max pooling, which widens what a window sees.

    Returns:
        A scalar; zero, with zero gradient, where no pixel is valid.
    """
    classes = jnp.arange(logits.shape[-1])
    target = (labels[..., None] == classes).astype(logits.dtype)
    valid = (labels != IGNORE)[..., None]
    count = valid.sum().astype(logits.dtype)
    errors = jax.nn.softplus(logits) - logits * target
    cross_entropy = jnp.where(valid, errors, 0).sum() / (count + 1)
    probability = jnp.where(valid, jax.nn.sigmoid(logits), 0) + LEAST_PROBABILITY
    target, probability = (max_pool(x, pool, pool, pool // 2) for x in (target, probability))
    uncertainty = region_uncertainty(target, probability, radius)
    return jnp.where(count > 0, balance * cross_entropy + (1 - balance) * uncertainty, 0)


def region_uncertainty(target: jax.Array, probability: jax.Array, radius: int = 3) -> jax.Array:
    """1/2 log det of the covariance of target vectors given those of probabilities.

    Per element of the vectors, averaged over images, summed over classes.

    The original computes V = C_aa - C_ap (C_pp + RIDGE)^-1 C_pa in float64. In float32 that
    difference would lose all digits for good predictions, so here it is the covariance of what
    the best linear prediction of a by p leaves over: the same matrix, as a sum of squares. That
    prediction minimises V, so it counts as a constant in the gradient.

    Args:
        target: (n, h, w, k), 0 or 1.
        probability: (n, h, w, k).
    """
    a, p = (_centred_vectors(x, radius) for x in (target, probability))
    ridge = RIDGE * jnp.eye(radius**2, dtype=a.dtype)
    _, prediction = _eliminate(_products(p, p) + ridge, _products(p, a))
    prediction = lax.stop_gradient(prediction).mT
    rest = a - jnp.einsum("nkij,jnmk->inmk", prediction, p, precision="highest")
    regularised = ridge + RIDGE * jnp.matmul(prediction, prediction.mT, precision="highest")
    conditional = _products(rest, rest) + regularised
    log_det, _ = _eliminate(conditional, conditional[..., :0])
    return (0.5 * log_det / radius**2).mean(0).sum()


def _centred_vectors(x: jax.Array, radius: int) -> jax.Array:
    """Windows of `x: (n, h, w, k)` less their mean, as (radius^2, n, positions, k).

    They are turned to the basis of the discrete cosine transform. No determinant changes by
    that, but small differences between neighbours become entries of their own and survive
    beside the large sums, where float32 would round them away.
    """
    n, height, width, k = x.shape
    height, width = height - radius + 1, width - radius + 1
    vectors = jnp.stack(
        [
            x[:, i : i + height, j : j + width].reshape(n, height * width, k)
            for i in range(radius)
            for j in range(radius)
        ]
    )
    frequency, position = np.mgrid[:radius, :radius]
    cosines = np.cos(np.pi * frequency * (position + 0.5) / radius)
    cosines /= np.linalg.norm(cosines, axis=1, keepdims=True)
    basis = jnp.asarray(np.kron(cosines, cosines), x.dtype)
    vectors = vectors - vectors.mean(2, keepdims=True)
    return jnp.einsum("ij,jnmk->inmk", basis, vectors, precision="highest")


def _products(a: jax.Array, b: jax.Array) -> jax.Array:
    """Covariances but for the division by the number of positions: (n, k, d, d)."""
    return jnp.einsum("inmk,jnmk->nkij", a, b, precision="highest")


def _eliminate(matrix: jax.Array, right: jax.Array) -> tuple[jax.Array, jax.Array]:
    """log det(matrix) and matrix^-1 right, of symmetric (…, d, d) with eigenvalues >= RIDGE.

    Pivots of such a matrix are not smaller either. Holding rounding errors to that keeps the
    result finite where a Cholesky factorisation would answer NaN.
    """
    d = matrix.shape[-1]

    def eliminate(carry, at):  # `at`, (d,) bool, marks one row
        table, log_det = carry
        row = jnp.where(at[:, None], table, 0).sum(-2, keepdims=True)
        column = jnp.where(at, table[..., :d], 0).sum(-1, keepdims=True)
        pivot = jnp.maximum(jnp.where(at, row[..., :d], 0).sum(-1, keepdims=True), RIDGE)
        table = jnp.where(at[:, None], row / pivot, table - column * (row / pivot))
        return (table, log_det + jnp.log(pivot[..., 0, 0])), None

    start = jnp.concatenate([matrix, right], -1), jnp.zeros_like(matrix[..., 0, 0])
    (table, log_det), _ = lax.scan(eliminate, start, np.eye(d, dtype=bool))
    return log_det, table[..., d:]
