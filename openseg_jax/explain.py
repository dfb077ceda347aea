"""`openseg explain`: what the context of a pixel is made of, as one picture.

Each of these methods gives a pixel a context that is a weighted mean over the image. The context is
linear in what it averages, so its weights are a derivative: no attention matrix is ever formed, and
it is the network's own attention that is asked.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from openseg_jax import photos, report
from openseg_jax.compilation import compiler_options
from openseg_jax.errors import UserError
from openseg_jax.evaluation.protocol import Protocol, prepare
from openseg_jax.models import isa, ocnet, ocr, segmenter
from openseg_jax.models.layers import max_pool, resize_bilinear
from openseg_jax.predictor import Predictor, load_network
from openseg_jax.preprocessing import normalize

METHODS = ("ocr", "asp_ocr", "ce2p", "ocnet", "asp_ocnet", "isa")
MAX_PIXELS = 1024 * 2048  # larger images are reduced
SHOWN_REGIONS = 3
TILE_WIDTH = 480

Mix = Callable[[jax.Array], jax.Array]


class Context(NamedTuple):
    """How a network mixes pixels into contexts; the size of its feature map is (h, w).

    Args:
        mix: values of pixels `(1, h, w, 1)` -> their means by each pixel's attention, of the same
            shape; linear.
        regions: `(h, w, k)`, OCR's soft object regions, each with sum 1; None for other methods.
        affinity: `(h, w, k)`, how much each pixel attends to each object; None likewise.
    """

    mix: Mix
    size: tuple[int, int]
    regions: jax.Array | None = None
    affinity: jax.Array | None = None


class Explanation(NamedTuple):
    """What one pixel attends to; maps are of the image's size, with values from 0 to 1.

    Args:
        attention: `(h, w)`, relative to the largest.
        objects: for OCR, `(class, affinity, soft region (h, w))`, the largest affinity first.
    """

    attention: np.ndarray
    objects: list[tuple[str, float, np.ndarray]]


def from_arguments(arguments) -> None:
    """Runs `openseg explain`."""
    image = photos.read_image(arguments.image)
    point = _point(arguments.point, image.shape[:2])
    config, weights, graph, name = load_network(arguments.checkpoint)
    if config.model.method not in METHODS:
        raise UserError(
            f"{name} is a network of {config.model.method}, of which there is no attention to "
            f"show. There is of {', '.join(METHODS)}."
        )
    model = Predictor(config, weights, graph, name)
    explanation = explain(config, weights, graph, image, point, model.classes)
    label = model.predict(image)
    report.save_png(arguments.out, picture(model, image, label, point, explanation))
    taken_for = model.classes[label[point]]
    print(f"The pixel in row {point[0]}, column {point[1]} is taken for {taken_for}.")
    if explanation.objects:
        print("What it attends to:")
    for category, affinity, _ in explanation.objects[:SHOWN_REGIONS]:
        print(f"  {report.percent(affinity):>6} %  {category}")
    print(f"Wrote {arguments.out}")


def _point(text: str, size: tuple[int, int]) -> tuple[int, int]:
    """The (row, column) of "row,column", or the middle of an image."""
    if not text:
        return size[0] // 2, size[1] // 2
    try:
        row, column = (int(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"--point {text}: give row,column, as 120,200.") from None
    if not (0 <= row < size[0] and 0 <= column < size[1]):
        raise UserError(f"--point {text} is not in the image, {size[0]} x {size[1]} (rows first).")
    return row, column


def explain(
    config,
    weights: dict,
    graph: nnx.GraphDef,
    image: np.ndarray,
    point: tuple[int, int],
    classes: tuple[str, ...],
) -> Explanation:
    """What the context of the pixel `point` (row, column) of an RGB uint8 image is made of."""
    protocol = Protocol.of(config.eval)
    limit = protocol.max_pixels or MAX_PIXELS
    padded, size = prepare(dataclasses.replace(protocol, max_pixels=limit), image)
    place = [p * n / whole for p, n, whole in zip(point, size, image.shape[:2], strict=True)]

    def look(weights: dict, pixels: jax.Array):
        network = nnx.merge(graph, weights["params"], weights["stats"])
        found = context(network, normalize(pixels, config.data, jnp.float32))
        row, column = (
            int(p * n / whole)
            for p, n, whole in zip(place, found.size, pixels.shape[1:3], strict=True)
        )
        attention = attention_of(found, row, column)
        if found.regions is None:
            return attention, None, None
        return attention, found.regions, found.affinity[row, column]

    options = compiler_options(segmenter.backbone_class(config.model))
    found = jax.jit(look, compiler_options=options)(weights, padded[None])
    attention, regions, affinity = jax.device_get(found)

    def at_image_size(plane: np.ndarray) -> np.ndarray:
        whole = cv2.resize(plane, padded.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        shown = cv2.resize(whole[: size[0], : size[1]], image.shape[1::-1])
        return shown / max(shown.max(), np.finfo(np.float32).tiny)

    objects = []
    if regions is not None:
        objects = [
            (classes[index], float(affinity[index]), at_image_size(regions[..., index]))
            for index in np.argsort(-affinity)
        ]
    return Explanation(at_image_size(attention), objects)


def attention_of(context: Context, row: int, column: int) -> jax.Array:
    """`(h, w)`: how much a pixel's context takes of each pixel; the sum is 1.

    With ISA it may be less at the borders, where zeros that fill up the windows take part.
    """
    nothing = jnp.zeros((1, *context.size, 1), jnp.float32)
    return jax.grad(lambda values: context.mix(values)[0, row, column, 0])(nothing)[0, ..., 0]


def context(network: segmenter.Segmenter, images: jax.Array) -> Context:
    """The context module of a network, on normalised images `(1, h, w, 3)`."""
    features = segmenter.inputs_of_head(network.method, network.backbone, network.backbone(images))
    head = network.head
    match network.method:
        case "ocr":
            return _object_context(head, head.auxiliary(features[-2]), features[-1])
        case "asp_ocr" | "ce2p":
            return _object_context(head.context, head.auxiliary(features[-2]), features[-1])
        case "ocnet":
            return _self_attention(head.attention, head.pixels(features[-1]))
        case "asp_ocnet":
            reduced = head.context.reduce(head.pixels(features[-1]))
            return _self_attention(head.context.attention, reduced)
        case "isa":
            pixels = head.pixels(features[-1])
            mixes = [interlaced(stage, pixels) for stage in head.attention.stages]
            return Context(_mean(mixes), pixels.shape[1:3])
    raise ValueError(f"{network.method} has no context.")


def _mean(mixes: list[Mix]) -> Mix:
    return lambda values: sum(mix(values) for mix in mixes) / len(mixes)


def _object_context(module, region_logits: jax.Array, x: jax.Array) -> Context:
    pixels = module.pixels(x)
    query = module.attention.query(pixels)
    objects = module.gather(region_logits, pixels)
    key = ocr.transform_objects(module.attention.key, objects)
    size, count = pixels.shape[1:3], region_logits.shape[-1]

    def mix(values: jax.Array) -> jax.Array:
        return ocr.attend_to_objects(query, key, ocr.gather_objects(region_logits, values))

    each = jnp.eye(count)[None, :, None]  # (1, k, 1, k): an object's value is its class
    affinity = ocr.attend_to_objects(query, key, each)[0]
    regions = jax.nn.softmax(resize_bilinear(region_logits, size), axis=(1, 2))[0]
    return Context(mix, size, regions, affinity)


def _self_attention(module: ocnet.SelfAttention, x: jax.Array) -> Context:
    x = max_pool(x, module.scale, module.scale) if module.scale > 1 else x
    query, key = (y.reshape(1, -1, y.shape[-1]) for y in (module.query(x), module.key(x)))

    def mix(values: jax.Array) -> jax.Array:
        mixed = ocnet.self_attention(query, key, values.reshape(1, -1, 1), chunk=module.chunk)
        return mixed.reshape(values.shape)

    return Context(mix, x.shape[1:3])


def interlaced(stage: isa.InterlacedAttention, x: jax.Array) -> Mix:
    """The long-range and then the short-range attention of a map `x: (1, h, w, c)`."""
    h, w = x.shape[1:3]
    (top, bottom), (left, right) = (
        (-size % step // 2, -size % step - -size % step // 2)
        for size, step in zip((h, w), stage.window, strict=True)
    )
    padding = (0, 0), (top, bottom), (left, right), (0, 0)
    x = jnp.pad(x, padding)
    far, near = stage.long_range, stage.short_range
    between = far(x, stage.window)

    def mix(values: jax.Array) -> jax.Array:
        values = jnp.pad(values, padding)
        values = far.attend(far.query(x), far.key(x), values, stage.window)
        values = near.attend(near.query(between), near.key(between), values, stage.window)
        return values[:, top : top + h, left : left + w]

    return mix


def picture(
    model: Predictor,
    image: np.ndarray,
    label: np.ndarray,
    point: tuple[int, int],
    explanation: Explanation,
) -> np.ndarray:
    """Image, prediction and attention side by side, and below OCR's objects; `(H, W, 3)` uint8."""
    tiles = [
        ("image", image),
        (f"prediction: {model.classes[label[point]]}", report.overlay(image, label, model.palette)),
        ("attention", heat(image, explanation.attention)),
    ]
    rows = [[(caption, _marked(tile, point)) for caption, tile in tiles]]
    if explanation.objects:
        shown = explanation.objects[:SHOWN_REGIONS]
        objects = [(f"{report.percent(a)} % {name}", heat(image, m)) for name, a, m in shown]
        rows.append(objects + [("", np.full_like(image, 255))] * (SHOWN_REGIONS - len(objects)))
    return np.concatenate([report.side_by_side(row, TILE_WIDTH) for row in rows])


def heat(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Values `(h, w)` in 0..1 as glowing colours over the darkened image `(h, w, 3)` uint8."""
    glow = cv2.applyColorMap((255 * np.sqrt(values)).astype(np.uint8), cv2.COLORMAP_INFERNO)
    return cv2.addWeighted(image, 0.35, glow[..., ::-1], 0.65, 0)


def _marked(picture: np.ndarray, point: tuple[int, int]) -> np.ndarray:
    """The picture with a ring around the point."""
    marked, radius = picture.copy(), max(3, min(picture.shape[:2]) // 40)
    for width, color in ((radius // 2 + 2, (0, 0, 0)), (radius // 3 + 1, (255, 255, 255))):
        cv2.circle(marked, point[::-1], radius, color, width, cv2.LINE_AA)
    return marked
