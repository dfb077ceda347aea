"""Backbone + head = a network: image in, logits out. `build` makes one from a config."""

from __future__ import annotations

import inspect
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from openseg_jax.errors import UserError, did_you_mean
from openseg_jax.models.asp_ocr import ASPOCRHead
from openseg_jax.models.ce2p import CE2PHead
from openseg_jax.models.fcn import FCNHead
from openseg_jax.models.hrnet import HRNet2x20, HRNetV2, merge_resolutions
from openseg_jax.models.ideal_ocr import IdealOCRHead
from openseg_jax.models.isa import ISAHead
from openseg_jax.models.layers import Rng, resize_bilinear
from openseg_jax.models.mobilenet_v2 import MobileNetV2
from openseg_jax.models.ocnet import ASPOCNetHead, OCNetHead
from openseg_jax.models.ocr import OCRHead
from openseg_jax.models.resnest import ResNeSt
from openseg_jax.models.resnet import RESNEXT, ResNet
from openseg_jax.models.segfix import SegFixHead
from openseg_jax.models.wide_resnet import WideResNet

RESNETS = (18, 34, 50, 101, 152)
BACKBONES = {
    "mobilenet_v2": MobileNetV2,
    **{f"resnet{depth}": partial(ResNet, depth=depth) for depth in RESNETS},
    **{f"resnet{depth}_7x7": partial(ResNet, depth=depth, deep_stem=False) for depth in RESNETS},
    **{f"resnext101_32x{w}d": partial(ResNet, group_width=w, **RESNEXT) for w in (8, 16, 32, 48)},
    **{f"resnest{depth}": partial(ResNeSt, depth=depth) for depth in (50, 101, 200, 269)},
    **{f"wide_resnet{depth}": partial(WideResNet, depth=depth) for depth in (16, 20, 38)},
    **{f"hrnet_w{width}": partial(HRNetV2, width) for width in (18, 32, 48, 64)},
    "hrnet_2x20": HRNet2x20,
}
METHODS = {
    "fcn": FCNHead,
    "ocnet": OCNetHead,
    "asp_ocnet": ASPOCNetHead,
    "isa": ISAHead,
    "ocr": OCRHead,
    "asp_ocr": ASPOCRHead,
    "ideal_ocr": IdealOCRHead,
    "ideal_ocr_b": partial(IdealOCRHead, contexts=("object", "background")),
    "ideal_ocr_c": partial(IdealOCRHead, contexts=("background",)),
    "ideal_gather_ocr": partial(IdealOCRHead, contexts=("attended",)),
    "ideal_distribute_ocr": partial(IdealOCRHead, gather_labels=False),
    "ce2p": CE2PHead,
    "segfix": SegFixHead,
}
# What differs where the original puts a method on HRNet. A width of None is the input's.
ON_HRNET = {
    "fcn": dict(channels=None, auxiliary=False),
    "ocnet": dict(auxiliary=False),
    "asp_ocnet": dict(dilations=(24, 48, 72), auxiliary=False),
    "isa": dict(bias=True, classifier_bias=False, auxiliary=False),
    "ocr": dict(aux_channels=None, aux_dropout=0.0),
    "asp_ocr": dict(dilations=(24, 48, 72), classifier_bias=False, aux_dropout=0.0),
}
BACKBONE_OPTIONS = ("output_stride", "multi_grid")
HEAD_OPTIONS = (
    "channels",
    "key_channels",
    "aux_channels",
    "dropout",
    "dilations",
    "factors",
    "attention_chunk",
)


class Segmenter(nnx.Module):
    """`(n, h, w, 3)` normalised images -> a tuple of `(n, h, w, num_classes)` float32 logits.

    The last of the tuple is the segmentation; those before it are auxiliary. All are resized
    to the size of the input inside the network, as the original does (SegFix's stay small).

    Args:
        method: a name of METHODS.
        norm: "bn" or "inplace_abn".
    """

    def __init__(self, backbone: nnx.Module, head: nnx.Module, method: str, norm: str):
        self.backbone = backbone
        self.head = head
        self.method, self.norm = method, norm
        self.origin = None  # what the bridge remembers of the file that filled the network

    def __call__(
        self,
        images: jax.Array,
        rngs: nnx.Rngs | None = None,
        labels: jax.Array | None = None,
    ) -> tuple[jax.Array, ...]:
        """`labels` (n, h, w) are for the networks that are told the truth (`needs_labels`).

        Raises:
            UserError: if `images` are not normalised images of three channels.
        """
        if images.ndim != 4 or not jnp.issubdtype(images.dtype, jnp.floating):
            raise UserError(
                f"A network takes normalised images (n, h, w, 3) in floating point, not "
                f"{images.dtype} of shape {images.shape}. `openseg_jax.load` takes any image."
            )
        features = inputs_of_head(self.method, self.backbone, self.backbone(images))
        told = (labels,) if self.needs_labels else ()
        outputs = self.head(features, rngs, *told)
        wide = tuple(y.astype(jnp.promote_types(y.dtype, jnp.float32)) for y in outputs)
        if not getattr(self.head, "resize_outputs", True):
            return wide
        return tuple(resize_bilinear(y, images.shape[1:3]) for y in wide)

    @property
    def needs_labels(self) -> bool:
        """Whether the network computes with the ground truth (the `ideal_*` methods)."""
        return getattr(self.head, "needs_labels", False)


def inputs_of_head(method: str, backbone: nnx.Module, features: list) -> list[jax.Array]:
    """The feature maps that a head reads, of which the last two matter most.

    HRNet's maps of all resolutions are merged, for the auxiliary and the main part of a head
    alike. SegFix wants that on every backbone.
    """
    if backbone.high_resolution:
        merged = merge_resolutions(features)
        return [*reversed(features), merged, merged]
    return [merge_resolutions(features[-4:])] if method == "segfix" else features


def _widths_of_head(method: str, backbone: nnx.Module) -> tuple[int, ...]:
    widths = tuple(backbone.widths)
    if backbone.high_resolution:
        return (*reversed(widths), sum(widths), sum(widths))
    return (sum(widths[-4:]),) if method == "segfix" else widths


def backbone_class(model) -> type:
    """The class of the backbone of `config.model`."""
    return _class(BACKBONES.get(model.backbone))


def needs_labels(model) -> bool:
    """Whether the head of `config.model` is told the ground truth."""
    return getattr(_class(METHODS.get(model.method)), "needs_labels", False)


def build(model, rng: Rng) -> Segmenter:
    """Makes the network of `config.model`.

    Args:
        rng: initialises the parameters, as NumPy arrays; None: they are NaN and take no memory,
            for a network that will be filled.

    Raises:
        UserError: for an unknown name, or an option that the backbone or method does not have.
    """
    backbone = _construct(model, "backbone", BACKBONES, BACKBONE_OPTIONS, {})(
        norm=model.norm, remat=model.remat, rng=rng
    )
    defaults = ON_HRNET.get(model.method, {}) if backbone.high_resolution else {}
    head = _construct(model, "method", METHODS, HEAD_OPTIONS, defaults)(
        _widths_of_head(model.method, backbone), model.num_classes, norm=model.norm, rng=rng
    )
    return Segmenter(backbone, head, model.method, model.norm)


def _construct(model, key: str, known: dict, options: tuple[str, ...], defaults: dict):
    """The constructor that `model[key]` names, with those of `options` that are set."""
    name = model[key]
    if name not in known:
        raise UserError(f"config.model.{key}: {name!r} is unknown. {did_you_mean(name, known)}")
    accepted = inspect.signature(_class(known[name]).__init__).parameters
    chosen = {option: model[option] for option in options if model[option] is not None}
    for option in sorted(chosen.keys() - accepted.keys()):
        takes = ", ".join(option for option in options if option in accepted) or "none"
        raise UserError(
            f"config.model.{option} has no meaning for {key} {name}; leave it at None. "
            f"Options of {name}: {takes}."
        )
    return partial(known[name], **{**defaults, **chosen})


def _class(constructor):
    return constructor.func if isinstance(constructor, partial) else constructor


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
