"""The original's networks under the original's names, and their outputs as it returns them."""

from __future__ import annotations

import re
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from openseg_jax.bridge.names import WORLDS
from openseg_jax.compilation import compiler_options
from openseg_jax.config import default_config
from openseg_jax.data.dataset import IGNORE
from openseg_jax.errors import UserError, did_you_mean
from openseg_jax.models import segmenter

# The original's model names: our method, and what differs from its defaults.
MODELS: dict[str, tuple[str, dict]] = {
    "fcnet": ("fcn", {}),
    "base_ocnet": ("ocnet", {}),
    "asp_ocnet": ("asp_ocnet", {}),
    "isanet": ("isa", {}),
    "spatial_ocrnet": ("ocr", {}),
    "spatial_asp_ocrnet": ("asp_ocr", {}),
    "ideal_spatial_ocrnet": ("ideal_ocr", {}),
    "ideal_spatial_ocrnet_b": ("ideal_ocr_b", {}),
    "ideal_spatial_ocrnet_c": ("ideal_ocr_c", {}),
    "ideal_gather_ocrnet": ("ideal_gather_ocr", {}),
    "ideal_distribute_ocrnet": ("ideal_distribute_ocr", {}),
    "ce2p_asp_ocrnet": ("ce2p", {}),
    "hrnet_w48": ("fcn", {}),
    "hrnet_w48_ocr": ("ocr", {}),
    "hrnet_w48_ocr_b": ("ocr", {"channels": 256, "key_channels": 128, "aux_channels": 256}),
    "hrnet_w48_asp_ocr": ("asp_ocr", {}),
    "hrnet_w48_isa": ("isa", {}),
    "segfix_hrnet": ("segfix", {}),
}


# Names by the original's rules, for messages.
ORIGINAL_BACKBONES = (
    *(f"deepbase_resnet{depth}_dilated8" for depth in (18, 34, 50, 101, 152)),
    *(f"resnet{depth}_dilated8" for depth in (18, 34, 50, 101, 152)),
    *(f"deepbase_resnest{depth}_dilated8" for depth in (50, 101, 200, 269)),
    *(f"resnext101_32x{width}d_dilated8" for width in (8, 16, 32, 48)),
    *(f"wide_resnet{depth}_dilated8" for depth in (16, 20, 38)),
    *(f"hrnet{name}" for name in ("18", "32", "48", "64", "2x20")),
    "mobilenet_v2_dilated8",
)


def parse_backbone(name: str) -> tuple[str, int | None]:
    """Our name and the output stride of a backbone that the original calls `name`.

    `deepbase_resnet101_dilated8` is `("resnet101", 8)`, `resnet50` is `("resnet50_7x7", 32)`,
    `hrnet48` is `("hrnet_w48", None)`: HRNets and Wide-ResNets have one stride only.
    """
    plain, dilated, stride = name.partition("_dilated")
    output_stride = int(stride) if dilated and stride.isdigit() else 32
    if found := re.fullmatch(r"hrnet(\d+|2x20)", plain):
        ours, output_stride = "hrnet_" + ("2x20" if "x" in found[1] else f"w{found[1]}"), None
    elif plain.startswith(("wide_resnet", "hrnet_")):  # or our own name of an HRNet
        ours, output_stride = plain, None
    elif plain == "mobilenetv2":
        ours = "mobilenet_v2"
    elif re.fullmatch(r"resnet\d+", plain):
        ours = f"{plain}_7x7"
    else:
        ours = plain.removeprefix("deepbase_")
    if ours not in segmenter.BACKBONES:
        raise UserError(
            f"The backbone {name!r} is unknown. {did_you_mean(name, ORIGINAL_BACKBONES)}"
        )
    return ours, output_stride


def original_names(model) -> tuple[str, str]:
    """The original's names for the method and the backbone of `config.model`.

    Networks that the original lacks get the name of the method's head, and the backbone's name
    by the original's rules.
    """
    on_hrnet = model.backbone.startswith("hrnet")
    fitting = [
        (len(options), name)
        for name, (method, options) in MODELS.items()
        if method == model.method and all(model[key] == value for key, value in options.items())
    ]
    native = [entry for entry in fitting if entry[1].startswith("hrnet") == on_hrnet]
    backbone = model.backbone.replace("hrnet_w", "hrnet").replace("hrnet_2", "hrnet2")
    name = backbone.removesuffix("_7x7")
    if backbone == name and name.startswith(("resnet", "resnest")):
        name = f"deepbase_{name}"
    stride = model.output_stride or 8
    return max(native or fitting)[
        1
    ], name if on_hrnet or stride == 32 else f"{name}_dilated{stride}"


def reference_config(
    model_name: str,
    backbone: str,
    num_classes: int,
    *,
    norm: str = "bn",
    multi_grid: tuple[int, ...] | None = None,
    factors: tuple[tuple[int, int], ...] | None = None,
) -> ConfigDict:
    """`config.model` of a network under the original's names."""
    if model_name not in MODELS:
        raise UserError(f"The model {model_name!r} is unknown. {did_you_mean(model_name, MODELS)}")
    if norm not in WORLDS:
        raise UserError(f"The norm {norm!r} is unknown. {did_you_mean(norm, WORLDS)}")
    method, options = MODELS[model_name]
    ours, output_stride = parse_backbone(backbone)
    model = default_config().model
    model.update(method=method, backbone=ours, num_classes=num_classes, norm=norm, **options)
    model.output_stride = output_stride
    if multi_grid and ours.startswith(("resnet", "resnext")):  # the others have none or ignore it
        model.multi_grid = tuple(multi_grid)
    if factors and method == "isa":
        model.factors = tuple(tuple(pair) for pair in factors)
    return model


def build_reference_model(
    model_name: str,
    backbone: str,
    num_classes: int,
    *,
    norm: str = "bn",
    multi_grid: tuple[int, ...] | None = None,
    factors: tuple[tuple[int, int], ...] | None = None,
) -> segmenter.Segmenter:
    """One of the original's networks, to be filled by `load_state_dict`.

    Args:
        model_name: such as `spatial_ocrnet` or `hrnet_w48_ocr`.
        backbone: such as `deepbase_resnet101_dilated8` or `hrnet48`.
        norm: "bn", or "inplace_abn" as in the published checkpoints.
        multi_grid: dilation factors of the last stage's blocks.
        factors: (along the height, along the width) of each stage of `isanet`.

    Raises:
        UserError: for an unknown name, with the near ones.
    """
    model = reference_config(
        model_name, backbone, num_classes, norm=norm, multi_grid=multi_grid, factors=factors
    )
    return segmenter.build(model, rng=None)


def reference_outputs(
    network: segmenter.Segmenter, x_nchw: np.ndarray, labels: np.ndarray | None = None
) -> list[np.ndarray]:
    """What the original returns in evaluation: float32 NCHW arrays, in its order.

    Args:
        x_nchw: (n, 3, h, w) normalised images.
        labels: (n, h, w) with -1 for ignored pixels, for the `ideal_*` networks.
    """
    params, stats, graphs = segmenter.graphs(network)
    x = jnp.asarray(np.asarray(x_nchw, np.float32).transpose(0, 2, 3, 1))
    if labels is not None:
        labels = jnp.asarray(np.where(labels < 0, IGNORE, labels), jnp.int32)
    with jax.default_matmul_precision("highest"):
        forward = _compiled(type(network.backbone))
        outputs = forward(graphs["eval"], params, stats, x, labels)
    return [np.asarray(y, np.float32).transpose(0, 3, 1, 2) for y in outputs]


@cache
def _compiled(backbone_class: type):
    options = compiler_options(backbone_class)
    return jax.jit(_forward, static_argnums=0, compiler_options=options)


def _forward(graph: nnx.GraphDef, params: dict, stats: dict, x: jax.Array, labels):
    return nnx.merge(graph, params, stats)(x, labels=labels)
