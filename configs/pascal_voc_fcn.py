"""FCN on Pascal VOC: BACKBONE[,published] of the original's tables.

python -m openseg_jax.main --config=configs/pascal_voc_fcn.py:resnet101 \
    --workdir=runs/pascal_voc_fcn --config.init_from=resnet101-imagenet.pth

MODEL_ZOO.md lists the backbones and their ImageNet weights.
"""

from openseg_jax.recipes import nearest, parse, pascal_voc


def get_config(argument="resnet101"):
    # resnet101, hrnet_w48: scripts of 2019; the latter's had 100,000 steps
    # wide_resnet38: only a JSON in 2019
    # mobilenet_v2: no script; as ResNet-101
    backbone, published = parse(argument, "published")
    config = pascal_voc.recipe("fcn", backbone)
    if published and nearest(backbone) == "hrnet_w48":
        config.train.steps = 100_000
    return config
