"""A network as a function of images: a batch of one shape in, label maps or logits out."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from openseg_jax.evaluation.protocol import Protocol, apply, total_weight
from openseg_jax.parallel import IMAGES, PER_IMAGE, REPLICATED
from openseg_jax.preprocessing import normalize


def make_forward(graph: nnx.GraphDef, data, dtype: jnp.dtype) -> Callable:
    """`forward(weights, images) -> logits (n, h, w, k)` of RGB images `(n, h, w, 3)`, 0 to 255.

    Args:
        graph: the "eval" graph of `segmenter.graphs`.
        data: `config.data`, for the normalisation.
    """

    def forward(weights: dict, images: jax.Array) -> jax.Array:
        network = nnx.merge(graph, weights["params"], weights["stats"])
        return network(normalize(images, data, dtype))[-1]

    return forward


def make_told_forward(graph: nnx.GraphDef, data, dtype: jnp.dtype) -> Callable:
    """`make_forward` of a network that is told the truth: labels are the images' fourth channel."""

    def forward(weights: dict, images: jax.Array) -> jax.Array:
        network = nnx.merge(graph, weights["params"], weights["stats"])
        labels = images[..., 3].astype(jnp.int32)
        return network(normalize(images[..., :3], data, dtype), labels=labels)[-1]

    return forward


def host_weights(state: dict) -> dict:
    """The parameters and statistics of a replicated state, as NumPy arrays."""
    weights = {name: state[name] for name in ("params", "stats")}
    return jax.tree.map(
        lambda a: np.asarray(a.addressable_data(0) if isinstance(a, jax.Array) else a), weights
    )


def local_weights(weights: dict) -> dict:
    """Weights of the host on this process's devices alone.

    Evaluation is local to each process, so that processes may have different numbers of images.
    """
    return jax.device_put(weights, jax.NamedSharding(local_mesh(), REPLICATED))


def local_mesh() -> Mesh:
    """A mesh over this process's devices, all along "data"."""
    devices = jax.local_devices()
    types = (jax.sharding.AxisType.Auto,) * 2
    return jax.make_mesh((len(devices), 1), ("data", "height"), types, devices=devices)


class Inference:
    """A network under a protocol, compiled once for each shape of batch.

    Args:
        forward: `forward(weights, images (n, h, w, 3) uint8, sizes (n, 2)) -> logits
            (n, h, w, k)`; `sizes` are the (height, width) of what is not padding.
        confidence: whether to calculate the probability of the best class, too.
        options: for the compiler, of `compilation.compiler_options`.
    """

    def __init__(
        self,
        protocol: Protocol,
        forward: Callable,
        confidence: bool = False,
        options: dict[str, str] | None = None,
    ):
        self.protocol, self.confidence = protocol, confidence
        # The sum of logits is divided by their number before a softmax; None: of probabilities.
        self._softness = total_weight(protocol) if protocol.combine == "logits" else None
        self._mesh = local_mesh()

        def labels(weights: dict, images: jax.Array, sizes: jax.Array) -> tuple[jax.Array, ...]:
            logits = forward(weights, images, sizes)
            best = logits.argmax(-1).astype(jnp.uint8)
            return (best, _confidence(logits, self._softness)) if confidence else (best,)

        def planes(weights: dict, images: jax.Array, sizes: jax.Array) -> jax.Array:
            return jnp.moveaxis(forward(weights, images, sizes), -1, 1)

        self._labels = jax.jit(labels, compiler_options=options)
        self._logits = jax.jit(planes, compiler_options=options)

    def run(self, weights: dict, images: np.ndarray, sizes: np.ndarray, at_size: bool):
        """Starts one batch on the devices.

        Returns:
            where `at_size` (labels are wanted at the size of the images), `(ids, confidence)` or
            `(ids,)`, `(n, h, w)` uint8; else logits `(n, k, h, w)`.
        """
        images = jax.device_put(images, jax.NamedSharding(self._mesh, IMAGES))
        sizes = jax.device_put(sizes, jax.NamedSharding(self._mesh, PER_IMAGE))
        return self.program(at_size)(weights, images, sizes)

    def program(self, at_size: bool) -> Callable:
        """The jitted function behind `run`."""
        return self._labels if at_size else self._logits

    def finish(self, output, size: tuple[int, int], wanted: tuple[int, int]) -> tuple:
        """`(ids, confidence or None)`, each `(*wanted)` uint8, of one image's part of `run`.

        Args:
            size: (height, width) of what is not padding.
        """
        height, width = size
        if isinstance(output, tuple):
            found = tuple(each[:height, :width] for each in output)
        else:
            logits = output[:, :height, :width]
            found = resized_labels(logits, wanted, self._softness, self.confidence)
        return (*found, None)[:2]


def under_protocol(
    forward: Callable,
    protocol: Protocol,
    data,
    flip_pairs=(),
    confidence: bool = False,
    options: dict[str, str] | None = None,
) -> Inference:
    """Any `forward(weights, images) -> logits` under a protocol.

    Args:
        forward: of RGB images `(n, h, w, 3)`, 0 to 255.
        data: `config.data`; its mean colour fills the padding, as in the original.
    """
    whole = apply(protocol, forward, tuple(flip_pairs))
    color = np.asarray(data.mean, np.float32) * data.scale
    color = color[::-1] if data.channel_order == "bgr" else color

    def padded(weights: dict, images: jax.Array, sizes: jax.Array) -> jax.Array:
        row = jnp.arange(images.shape[1])[None, :, None, None]
        column = jnp.arange(images.shape[2])[None, None, :, None]
        height, width = sizes[:, 0, None, None, None], sizes[:, 1, None, None, None]
        inside = (row < height) & (column < width)
        return whole(weights, jnp.where(inside, images.astype(jnp.float32), color))

    return Inference(protocol, padded, confidence, options)


def _confidence(logits: jax.Array, softness: float | None) -> jax.Array:
    """The probability of the best class, 255 being certain, `(n, h, w)` uint8."""
    if softness is None:
        share = logits.max(-1) / logits.sum(-1)
    else:
        share = jax.nn.softmax(logits / softness, -1).max(-1)
    return jnp.round(255 * share).astype(jnp.uint8)


def resized_labels(
    logits: np.ndarray,
    size: tuple[int, int],
    softness: float | None = 1.0,
    confidence: bool = False,
) -> tuple[np.ndarray, ...]:
    """Bicubic resize of logits, then the best class of each pixel, as the original scores.

    One class at a time, so that memory does not grow with their number.

    Args:
        logits: `(k, h, w)` float32.
        softness: the logits are divided by it before the softmax; None: they are probabilities.

    Returns:
        class ids and, if asked for, the probabilities of them (255 being certain), `(*size)` uint8.
    """
    best = resized(logits[0], size)
    label = np.zeros(size, np.uint8)
    for index in range(1, len(logits)):
        plane = resized(logits[index], size)
        np.copyto(label, np.uint8(index), where=plane > best)
        np.maximum(best, plane, out=best)
    if not confidence:
        return (label,)
    total = np.zeros(size, np.float32)
    for plane in (resized(each, size) for each in logits):
        total += plane if softness is None else np.exp((plane - best) / softness)
    share = best / np.maximum(total, 1e-6) if softness is None else 1 / total
    return label, np.rint(255 * np.clip(share, 0, 1)).astype(np.uint8)


def resized(plane: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bicubic resize of `(h, w)` to `(*size)`; pixels are squares, so half a pixel is added."""
    return cv2.resize(plane, size[::-1], interpolation=cv2.INTER_CUBIC)
