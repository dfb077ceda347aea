"""What follows from the backbone: the input it expects, its ImageNet weights, narrower heads.

The tables of the original have four backbones; each of the others trains like one of these. Its
checkpoints see the channels in the order of OpenCV, blue first, and recipes keep that.
"""

from __future__ import annotations

from typing import NamedTuple

from openseg_jax.config import RGB_IMAGENET

# Of Caffe, as R_101_D_8.json and M_V2_D_8.json have it: grey levels less their mean.
BGR_CAFFE = dict(
    channel_order="bgr",
    scale=1.0,
    mean=(102.9801, 115.9465, 122.7717),
    std=(1.0, 1.0, 1.0),
)
# H_48_D_4.json normalises blue by the mean of red and red by that of blue. Its checkpoints were
# trained so.
BGR_IMAGENET = RGB_IMAGENET | dict(channel_order="bgr")


class Backbone(NamedTuple):
    """What recipes know of a backbone.

    Args:
        row: the backbone of the tables whose recipe is the nearest.
        inputs: of `config.data`, where the data set's recipe has nothing else.
        weights: a file of ImageNet weights for `config.init_from`; empty: the original has none.
    """

    row: str
    inputs: dict
    weights: str = ""


BACKBONES = {
    # The original has a recipe for this backbone (M_V2_D_8.json), but neither network nor weights.
    # Its BGR input of 0 to 255 is not taken over: all public weights expect RGB.
    "mobilenet_v2": Backbone("mobilenet_v2", RGB_IMAGENET, "mobilenet_v2-b0353104.pth"),
    **{f"resnet{depth}": Backbone("resnet101", BGR_CAFFE) for depth in (18, 34, 152)},
    "resnet50": Backbone("resnet101", BGR_CAFFE, "resnet50-imagenet.pth"),
    "resnet101": Backbone("resnet101", BGR_CAFFE, "resnet101-imagenet.pth"),
    # No script of the original trains these two families; the public weights expect RGB.
    **{f"resnet{d}_7x7": Backbone("resnet101", RGB_IMAGENET) for d in (18, 34, 50, 101, 152)},
    **{f"resnext101_32x{w}d": Backbone("resnet101", RGB_IMAGENET) for w in (8, 16, 32, 48)},
    # cityscapes/resnest/run_r_101_d_8_fcn.sh, which uses R_101_D_8.json.
    **{f"resnest{depth}": Backbone("resnet101", BGR_CAFFE) for depth in (50, 200, 269)},
    "resnest101": Backbone("resnet101", BGR_CAFFE, "resnest101-966fb78c.pth"),
    **{f"wide_resnet{depth}": Backbone("wide_resnet38", BGR_IMAGENET) for depth in (16, 20)},
    "wide_resnet38": Backbone("wide_resnet38", BGR_IMAGENET, "wide_resnet38_ipabn_lr_256.pth.tar"),
    **{
        f"hrnet_w{width}": Backbone(
            "hrnet_w48", BGR_IMAGENET, f"hrnetv2_w{width}_imagenet_pretrained.pth"
        )
        for width in (18, 32, 48, 64)
    },
    "hrnet_2x20": Backbone("hrnet_w48", BGR_IMAGENET, "hr_rnet_bt_w20_imagenet_pretrained.pth"),
}


def nearest(backbone: str) -> str:
    """The backbone of the tables whose recipe fits best, such as resnet101 for resnet50."""
    return BACKBONES[backbone].row


def head_widths(method: str, backbone: str) -> dict:
    """Of `config.model`, where they are not the method's own.

    On MobileNetV2 the original's `fcnet` narrows its heads to 256 and 128 channels; so do all
    other methods here.
    """
    if nearest(backbone) != "mobilenet_v2" or method == "segfix":
        return {}
    keys = {} if method == "fcn" else {"key_channels": 128}
    return {"channels": 256, "aux_channels": 128, **keys}
