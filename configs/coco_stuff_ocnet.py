"""OCNet (base-OC) on COCO-Stuff-10K: BACKBONE[,published] of the original's tables.

python -m openseg_jax.main --config=configs/coco_stuff_ocnet.py:resnet101 \
    --workdir=runs/coco_stuff_ocnet --config.init_from=resnet101-imagenet.pth

MODEL_ZOO.md lists the backbones and their ImageNet weights.
"""

from openseg_jax.recipes import coco_stuff, nearest, parse


def get_config(argument="resnet101"):
    # hrnet_w48: no script; as ISA on HRNet
    # wide_resnet38: no script; pascal_context/W_38_D_8.json
    # mobilenet_v2: no script; as ResNet-101
    backbone, _ = parse(argument, "published")
    config = coco_stuff.recipe("ocnet", backbone)
    if nearest(backbone) == "resnet101":  # a script of 2019, with hard pixels
        config.loss.name = "ohem"
    return config
