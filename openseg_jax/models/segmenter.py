"""Backbone + head = a network: image in, logits out. `build` makes one from a config."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from openseg_jax.errors import UserError
from openseg_jax.models.mobilenet_v2 import MobileNetV2
from openseg_jax.models.ocr import OCRHead
from openseg_jax.models.resize import resize_bilinear

BACKBONES = {"mobilenet_v2": MobileNetV2}
METHODS = {"ocr": OCRHead}


class Segmenter(nnx.Module):
    """`(n, h, w, 3)` normalised images -> a tuple of `(n, h, w, num_classes)` float32 logits.

    The last of the tuple is the segmentation; those before it are auxiliary. All are resized
    to the size of the input inside the network, as the original does.
    """

    def __init__(self, backbone: nnx.Module, head: nnx.Module):
        self.backbone = backbone
        self.head = head

    def __call__(self, images: jax.Array, rngs: nnx.Rngs | None = None) -> tuple[jax.Array, ...]:
        outputs = self.head(self.backbone(images), rngs)
        wide = (y.astype(jnp.promote_types(y.dtype, jnp.float32)) for y in outputs)
        return tuple(resize_bilinear(y, images.shape[1:3]) for y in wide)


def build(model, rng: np.random.Generator) -> Segmenter:
    """Makes the network of `config.model`, with freshly initialised NumPy parameters."""
    if model.backbone not in BACKBONES:
        raise UserError(
            f"config.model.backbone: {model.backbone!r} is unknown. Known: {', '.join(BACKBONES)}."
        )
    if model.method not in METHODS:
        raise UserError(
            f"config.model.method: {model.method!r} is unknown. Known: {', '.join(METHODS)}."
        )
    backbone = BACKBONES[model.backbone](
        output_stride=model.output_stride, norm=model.norm, rng=rng
    )
    head = METHODS[model.method](
        backbone.widths,
        model.num_classes,
        channels=model.channels,
        key_channels=model.key_channels,
        aux_channels=model.aux_channels,
        dropout=model.dropout,
        norm=model.norm,
        rng=rng,
    )
    return Segmenter(backbone, head)


def graphs(network: Segmenter, frozen_norm: bool = False) -> tuple[dict, dict, dict]:
    """Splits a network into what changes and what does not.

    Returns:
        params and batch statistics as plain nested dicts, and `{"train", "eval"}` graph
        definitions. `nnx.merge(graph[mode], params, stats)` inside a jitted function is the
        network again; carrying plain dicts keeps the host overhead of a step small.
    """
    views = {
        "train": nnx.view(network, deterministic=False, use_running_average=frozen_norm),
        "eval": nnx.view(network, deterministic=True, use_running_average=True),
    }
    params = nnx.to_pure_dict(nnx.state(network, nnx.Param))
    stats = nnx.to_pure_dict(nnx.state(network, nnx.BatchStat))
    return params, stats, {mode: nnx.graphdef(view) for mode, view in views.items()}
