"""FCN on COCO-Stuff-10K: BACKBONE[,published] of the original's tables.

python -m openseg_jax.main --config=configs/coco_stuff_fcn.py:resnet101 \
    --workdir=runs/coco_stuff_fcn --config.init_from=resnet101-imagenet.pth

MODEL_ZOO.md lists the backbones and their ImageNet weights.
"""

from openseg_jax.recipes import coco_stuff, parse


def get_config(argument="resnet101"):
    # resnet101: coco_stuff/run_r_101_d_8_train.sh
    # hrnet_w48: coco_stuff/run_h_48_d_4_train.sh, without an auxiliary loss
    # wide_resnet38: no script; pascal_context/W_38_D_8.json
    # mobilenet_v2: no script; as ResNet-101
    backbone, _ = parse(argument, "published")
    return coco_stuff.recipe("fcn", backbone)
