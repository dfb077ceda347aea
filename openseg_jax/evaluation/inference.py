"""A network as a function of images: batches of one shape in, label maps or logits out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from openseg_jax.parallel import IMAGES, REPLICATED
from openseg_jax.preprocessing import normalize

MOST_WAITING = 8  # batches of images that may wait for others of their shape


def make_forward(graph: nnx.GraphDef, data, dtype: jnp.dtype) -> Callable:
    """`forward(weights, images) -> logits (n, h, w, k)` of uint8 RGB `(n, h, w, 3)` images.

    Args:
        graph: the "eval" graph of `segmenter.graphs`.
        data: `config.data`, for the normalisation.
    """

    def forward(weights: dict, images: jax.Array) -> jax.Array:
        network = nnx.merge(graph, weights["params"], weights["stats"])
        return network(normalize(images, data, dtype))[-1]

    return forward


def local_weights(state: dict) -> dict:
    """The parameters and statistics of a replicated state, on this process's devices alone.

    Evaluation is local to each process, so that processes may have different numbers of images.
    """
    weights = {name: state[name] for name in ("params", "stats")}
    host = jax.tree.map(lambda a: a.addressable_data(0) if hasattr(a, "sharding") else a, weights)
    mesh = local_mesh()
    return jax.device_put(host, jax.NamedSharding(mesh, REPLICATED))


def local_mesh() -> Mesh:
    """A mesh over this process's devices, all along "data"."""
    devices = jax.local_devices()
    types = (jax.sharding.AxisType.Auto,) * 2
    return jax.make_mesh((len(devices), 1), ("data", "height"), types, devices=devices)


def make_label_predictor(forward: Callable) -> Callable:
    """`predict(weights, images) -> (n, h, w)` uint8 class ids, images uint8 on the host."""
    mesh = local_mesh()
    sharding = jax.NamedSharding(mesh, IMAGES)
    labels = jax.jit(lambda weights, images: forward(weights, images).argmax(-1).astype(jnp.uint8))

    def predict(weights: dict, images: np.ndarray) -> jax.Array:
        return labels(weights, jax.device_put(images, sharding))

    return predict


def batches_by_shape(
    examples: Iterable[dict], batch_size: int
) -> Iterator[tuple[list[dict], np.ndarray]]:
    """Groups examples whose images have one shape, so that few programs are compiled.

    Yields:
        up to `batch_size` examples, and their images `(batch_size, h, w, 3)`; a batch that is
        not full is filled with zeros, whose results are to be dropped.
    """
    waiting: dict[tuple, list[dict]] = {}
    for example in examples:
        group = waiting.setdefault(example["image"].shape, [])
        group.append(example)
        if len(group) == batch_size:
            yield _filled(waiting.pop(example["image"].shape), batch_size)
        elif sum(map(len, waiting.values())) >= MOST_WAITING * batch_size:
            yield _filled(waiting.pop(next(iter(waiting))), batch_size)
    for group in waiting.values():
        yield _filled(group, batch_size)


def _filled(group: list[dict], batch_size: int) -> tuple[list[dict], np.ndarray]:
    images = np.zeros((batch_size, *group[0]["image"].shape), np.uint8)
    images[: len(group)] = [example["image"] for example in group]
    return group, images


def local_batch_size(wanted: int) -> int:
    """The smallest multiple of the number of local devices that is at least `wanted`."""
    devices = jax.local_device_count()
    return -(-max(wanted, 1) // devices) * devices


def predict_all(
    predict: Callable, weights: dict, examples: Iterable[dict], batch_size: int
) -> Iterator[tuple[dict, np.ndarray]]:
    """Yields each example with its predicted label map `(h, w)` uint8.

    The device works on one batch while the results of the one before are used.
    """
    in_flight = None
    for group, images in batches_by_shape(examples, local_batch_size(batch_size)):
        launched = group, predict(weights, images)
        if in_flight:
            yield from _results(*in_flight)
        in_flight = launched
    if in_flight:
        yield from _results(*in_flight)


def _results(group: list[dict], labels: jax.Array) -> Iterator[tuple[dict, np.ndarray]]:
    yield from zip(group, jax.device_get(labels), strict=False)
