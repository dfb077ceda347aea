"""ISA on Cityscapes: BACKBONE[,published] of the original's tables.

python -m openseg_jax.main --config=configs/cityscapes_isa.py:resnet101 \
    --workdir=runs/cityscapes_isa --config.init_from=resnet101-imagenet.pth

MODEL_ZOO.md lists the backbones and their ImageNet weights.
"""

from openseg_jax.recipes import cityscapes, nearest, parse


def get_config(argument="resnet101"):
    backbone, published = parse(argument, "published")
    config = cityscapes.recipe("isa", backbone)
    match nearest(backbone):
        case "resnet101":  # cityscapes/isa/run_r_101_d_8_isa_train.sh
            config.train.update(batch_size=8, steps=40_000)
        case "wide_resnet38":  # no script; W_38_D_8.json with the table's batches
            config.train.update(batch_size=16, steps=20_000)
        case "hrnet_w48":  # deleted in 2019: a script for HRNet_W48_ISA with 80,000 steps
            config.train.update(batch_size=8, steps=80_000 if published else 100_000)
        case "mobilenet_v2":  # no script; the nearest is ResNet-101's, with M_V2_D_8.json
            config.train.update(batch_size=16, steps=40_000)
    return config
