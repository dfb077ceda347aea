"""OCR with the ground truth in place of what it learns: the upper bounds of its paper.

The labels may give the regions that gather pixels into objects, or the object that a pixel
attends to, or both (section 3.2, "ground-truth OCR", and its ablations). Original modules:
`spatial_ocr_block.py` with `use_gt` and `use_bg`, `nets/ideal_ocrnet.py`.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from openseg_jax.data.dataset import IGNORE
from openseg_jax.models.fcn import ConvClassifier
from openseg_jax.models.layers import Conv, ConvNormAct, Rng, dropout2d
from openseg_jax.models.ocr import (
    ObjectAttention,
    ObjectGather,
    average_pixels,
    distribute,
    transform_objects,
)


def label_regions(labels: jax.Array, size: tuple[int, int], count: int) -> jax.Array:
    """Labels as one-hot float32 regions `(n, *size, count)`; ignored pixels are in the last.

    Args:
        labels: (n, H, W) integers; `IGNORE` marks pixels without a label.
        size: (h, w) to which the labels are sampled, each at floor(i * H / h), as PyTorch's
            `nearest` does, in float32 like there.
        count: regions. With the number of classes, the last class and the ignored pixels
            share one, as in the original's `ideal_distribute_ocrnet`.
    """
    for axis, (source, target) in enumerate(zip(labels.shape[1:], size, strict=True), start=1):
        positions = np.arange(target, dtype=np.float32) * (np.float32(source) / np.float32(target))
        labels = jnp.take(labels, np.minimum(positions.astype(int), source - 1), axis)
    return jax.nn.one_hot(jnp.where(labels == IGNORE, count - 1, labels), count)


def gather_labelled_objects(regions: jax.Array, pixels: jax.Array) -> jax.Array:
    """The mean pixel of each region: `(n, k, 1, c)`, zero where a region is empty.

    Args:
        regions: (n, h, w, k), one-hot.
        pixels: (n, h, w, c).
    """
    return average_pixels(regions / jnp.maximum(regions.sum((1, 2), keepdims=True), 1), pixels)


class LabelledGather(nnx.Module):
    """`gather_labelled_objects` as a module without parameters."""

    def __call__(self, regions: jax.Array, pixels: jax.Array) -> jax.Array:
        return gather_labelled_objects(regions, pixels)


class LabelledAttention(ObjectAttention):
    """Object attention in which the label decides: a pixel attends to the object it belongs to.

    `pixels: (n, h, w, c)`, `objects: (n, k, 1, c)`, labels -> `(context,)`, or with `background`
    `(context, background)`, the second from the mean of all other objects; each `(n, h, w, c)`.
    """

    def __init__(self, channels: int, key_channels: int, *, background: bool, norm: str, rng: Rng):
        super().__init__(channels, key_channels, norm=norm, rng=rng)
        self.background = background

    def __call__(
        self, pixels: jax.Array, objects: jax.Array, labels: jax.Array
    ) -> tuple[jax.Array, ...]:
        # Nobody reads queries and keys, but their batch statistics move as in the original.
        self.query(pixels), transform_objects(self.key, objects)
        value, count = transform_objects(self.value, objects), objects.shape[1]
        own = label_regions(labels, pixels.shape[1:3], count)
        weights = (own, (1 - own) / (count - 1)) if self.background else (own,)
        return tuple(
            self.write(partial(distribute, each, dtype=pixels.dtype), value) for each in weights
        )


class IdealOCRHead(nnx.Module):
    """Feature maps and labels -> (auxiliary, main) logits `(n, h, w, num_classes)`.

    Labels are (n, H, W) integers at image size, `IGNORE` where there is none.

    Args:
        gather_labels: whether labels make the objects; then there is one more, of the ignored
            pixels.
        contexts: what is fused with the pixels: ("attended",), as OCR does, or by the labels
            ("object",), the context of a pixel's own object, ("background",), of all others,
            or ("object", "background").
    """

    needs_labels = True

    def __init__(
        self,
        widths: tuple[int, ...],
        num_classes: int,
        *,
        gather_labels: bool = True,
        contexts: tuple[str, ...] = ("object",),
        channels: int = 512,
        key_channels: int = 256,
        aux_channels: int | None = 512,
        dropout: float = 0.05,
        norm: str = "bn",
        rng: Rng,
    ):
        self.auxiliary = ConvClassifier(
            widths[-2], aux_channels, num_classes, dropout=dropout, norm=norm, rng=rng
        )
        self.pixels = ConvNormAct(widths[-1], channels, 3, norm=norm, rng=rng)
        self.gather = LabelledGather() if gather_labels else ObjectGather()
        if contexts == ("attended",):
            self.attention = ObjectAttention(channels, key_channels, norm=norm, rng=rng)
        else:
            self.attention = LabelledAttention(
                channels, key_channels, background="background" in contexts, norm=norm, rng=rng
            )
        self.fuse = ConvNormAct((1 + len(contexts)) * channels, channels, norm=norm, rng=rng)
        self.dropout = dropout2d(dropout)
        self.classifier = Conv(channels, num_classes, bias=True, rng=rng)
        self.gather_labels, self.contexts = gather_labels, contexts

    def __call__(
        self, features: list[jax.Array], rngs: nnx.Rngs | None, labels: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        regions = self.auxiliary(features[-2], rngs)
        pixels = self.pixels(features[-1])
        if self.gather_labels:
            size = pixels.shape[1:3]
            objects = self.gather(label_regions(labels, size, regions.shape[-1] + 1), pixels)
        else:
            objects = self.gather(regions, pixels)
        if self.contexts == ("attended",):
            contexts = [self.attention(pixels, objects)]
        else:
            found = self.attention(pixels, objects, labels)
            named = dict(zip(("object", "background"), found, strict=False))
            contexts = [named[name] for name in self.contexts]
        fused = self.fuse(*contexts, pixels)
        return regions, self.classifier(self.dropout(fused, rngs=rngs))
