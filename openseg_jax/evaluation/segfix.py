"""SegFix: labels near a boundary are replaced by those a step further inside their region.

Source: Yuan et al., "SegFix: Model-Agnostic Boundary Refinement for Segmentation", ECCV 2020;
`segmentor/tester_offset.py` and `scripts/cityscapes/segfix*.py` of the original.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from openseg_jax.compilation import compiler_options
from openseg_jax.data import boundaries
from openseg_jax.evaluation import directions
from openseg_jax.evaluation.inference import Inference, under_protocol
from openseg_jax.evaluation.protocol import Protocol, prepare, total_weight
from openseg_jax.models import segmenter
from openseg_jax.models.layers import resize_bilinear
from openseg_jax.preprocessing import compute_dtype, normalize

SEMANTIC_SCALE, INSTANCE_SCALE = 2, 1  # steps of an offset, as published
# The 8 directions, and what the network says of pixels that are not near a boundary.
CLASSES = ("left", "up left", "up", "up right", "right", "down right", "down", "down left", "none")
FLIP_PAIRS = ((0, 4), (1, 3), (5, 7))  # directions that are each other's mirror image


def refine(labels: jax.Array, offsets: jax.Array, scale: float = SEMANTIC_SCALE) -> jax.Array:
    """Each pixel takes the label found `scale` offsets away; beyond the image, at its border.

    Args:
        labels: `(…, h, w)` ids of any kind, semantic or of one instance.
        offsets: `(…, h, w, 2)` (down, right) in pixels.
    """
    height, width = labels.shape[-2:]
    down, right = (jnp.rint(scale * offsets[..., i]).astype(jnp.int32) for i in (0, 1))
    row = jnp.clip(jnp.arange(height)[:, None] + down, 0, height - 1)
    column = jnp.clip(jnp.arange(width) + right, 0, width - 1)
    flat = labels.reshape(*labels.shape[:-2], height * width)
    where = (row * width + column).reshape(flat.shape)
    return jnp.take_along_axis(flat, where, -1).reshape(labels.shape)


def sample(features: jax.Array, offsets: jax.Array) -> jax.Array:
    """Features moved by offsets of any length, bilinear between pixels (the `OffsetModule`).

    Args:
        features: `(n, h, w, c)`.
        offsets: `(n, h, w, 2)` (down, right) in pixels; beyond the image is its border.
    """
    height, width = features.shape[1:3]
    rows = jnp.arange(height)[:, None] + offsets[..., 0]
    columns = jnp.arange(width) + offsets[..., 1]

    def one(feature: jax.Array, row: jax.Array, column: jax.Array) -> jax.Array:
        coordinates = [jnp.clip(row, 0, height - 1), jnp.clip(column, 0, width - 1)]
        plane = jax.vmap(
            lambda x: jax.scipy.ndimage.map_coordinates(x, coordinates, 1, "nearest"), 2, 2
        )
        return plane(feature)

    return jax.vmap(one)(features, rows, columns)


def decode(boundary: jax.Array, direction: jax.Array) -> jax.Array:
    """Offsets `(…, h, w, 2)` int32 from the network's answer.

    Args:
        boundary: `(…, h, w)` probability that a pixel is near a boundary.
        direction: `(…, h, w, classes)` logits.
    """
    steps = jnp.asarray(directions.vectors(direction.shape[-1]))[direction.argmax(-1)]
    return jnp.where((boundary > 0.5)[..., None], steps, 0)


def make_forward(graph: nnx.GraphDef, data, dtype: jnp.dtype) -> Callable:
    """`forward(weights, images) -> (n, h, w, 2 + classes)` of RGB images `(n, h, w, 3)`.

    The first two are probabilities of not being, and of being, near a boundary, calculated at
    the resolution of the features, as in the original; the rest are logits of directions.
    """

    def forward(weights: dict, images: jax.Array) -> jax.Array:
        network = nnx.merge(graph, weights["params"], weights["stats"])
        outputs = network(normalize(images, data, dtype))  # at the features' resolution
        mask, direction = (y.astype(jnp.promote_types(y.dtype, jnp.float32)) for y in outputs)
        answer = jnp.concatenate([jax.nn.softmax(mask, -1), direction], -1)
        return resize_bilinear(answer, images.shape[1:3])

    return forward


def make_inference(
    config,
    graph: nnx.GraphDef,
    protocol: Protocol,
    forward_of: Callable = lambda f: f,
) -> Inference:
    """A SegFix network under a protocol.

    Args:
        protocol: its `combine` is not followed: what is summed is logits.
        forward_of: what to make of the forward: nothing, or `direction_or_none`.
    """
    forward = forward_of(make_forward(graph, config.data, compute_dtype(config.dtype)))
    protocol = dataclasses.replace(protocol, combine="logits")
    first = 0 if forward_of is direction_or_none else 2
    pairs = tuple((left + first, right + first) for left, right in FLIP_PAIRS)
    options = compiler_options(segmenter.backbone_class(config.model))
    return under_protocol(forward, protocol, config.data, pairs, options=options)


def direction_or_none(forward: Callable) -> Callable:
    """Of `make_forward`, one that labels pixels with their direction, or none (the last class).

    The best direction has more than "none", which has 0, where a boundary is more likely than
    not.
    """

    def labelled(weights: dict, images: jax.Array) -> jax.Array:
        answer = forward(weights, images)
        boundary, direction = answer[..., 1:2], answer[..., 2:]
        direction = boundary - 0.5 + direction - direction.max(-1, keepdims=True)
        return jnp.concatenate([direction, jnp.zeros_like(boundary)], -1)

    return labelled


def target(truth: np.ndarray) -> np.ndarray:
    """The label `(h, w)` of CLASSES that belongs to a label of train ids."""
    distance, direction = boundaries.distance_direction(truth)
    return directions.direction_label(distance, boundaries.degrees(direction), truth)


def scores(confusion: np.ndarray) -> dict:
    """Accuracies from the confusion of CLASSES (`offset_evaluator.py` of the original).

    Returns:
        boundary_acc: of boundary or not; direction_acc: of the direction at true boundaries,
            where "none" is wrong (the original selects by it); direction_acc_at_predicted: of
            the direction where both see a boundary.
    """
    none = len(CLASSES) - 1
    near = confusion[:none, :none]
    right = np.trace(near)
    values = {
        "boundary_acc": (near.sum() + confusion[none, none]) / max(confusion.sum(), 1),
        "direction_acc": right / max(confusion[:none].sum(), 1),
        "direction_acc_at_predicted": right / max(near.sum(), 1),
    }
    return {name: round(float(value), 6) for name, value in values.items()}


def predicted_offsets(inference: Inference, weights: dict, image: np.ndarray) -> np.ndarray:
    """The offsets `(h, w, 2)` int8 (down, right) of one image `(h, w, 3)` uint8.

    A step of an image that is reduced for the network is as many pixels of the image itself.

    Args:
        inference: of `make_inference`.
    """
    padded, (height, width) = prepare(inference.protocol, image)
    copies = np.repeat(padded[None], jax.local_device_count(), 0)
    sizes = np.full((len(copies), 2), (height, width), np.int32)
    answer = np.asarray(inference.run(weights, copies, sizes, at_size=False)[0])
    answer = np.moveaxis(answer[:, :height, :width], 0, -1) / total_weight(inference.protocol)
    found = np.asarray(decode(answer[..., 1], answer[..., 2:])).astype(np.int8)
    if (height, width) != image.shape[:2]:
        step = max(round(image.shape[0] / height), round(image.shape[1] / width), 1)
        found = cv2.resize(found, image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
        found *= np.int8(step)
    return found


def true_offsets(truth: np.ndarray, num_classes: int = 8) -> np.ndarray:
    """The offsets a perfect network would give, from the true label `(h, w)` of train ids."""
    distance, direction = boundaries.distance_direction(truth)
    return directions.offsets(distance, boundaries.degrees(direction), num_classes)
