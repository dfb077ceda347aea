"""FCN on ADE20K: BACKBONE[,published] of the original's tables.

python -m openseg_jax.main --config=configs/ade20k_fcn.py:resnet101 \
    --workdir=runs/ade20k_fcn --config.init_from=resnet101-imagenet.pth

MODEL_ZOO.md lists the backbones and their ImageNet weights.
"""

from openseg_jax.recipes import ade20k, parse


def get_config(argument="resnet101"):
    # resnet101: ade20k/run_res101d8_fcn_ade20k_seg.sh
    # hrnet_w48: ade20k/hrnet/run_h_48_d_4_train.sh, without an auxiliary loss
    # wide_resnet38: no script; W_38_D_8.json
    # mobilenet_v2: no script; ResNet-101's with M_V2_D_8.json
    backbone, _ = parse(argument, "published")
    return ade20k.recipe("fcn", backbone)
