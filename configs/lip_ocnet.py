"""OCNet (base-OC) on LIP: BACKBONE[,published] of the original's tables.

python -m openseg_jax.main --config=configs/lip_ocnet.py:resnet101 \
    --workdir=runs/lip_ocnet --config.init_from=resnet101-imagenet.pth

MODEL_ZOO.md lists the backbones and their ImageNet weights.
"""

from openseg_jax.recipes import lip, parse


def get_config(argument="resnet101"):
    # hrnet_w48: no script; as ISA and OCR on HRNet
    # resnet101: no script but CE2P's; R_101_D_8.json with cross entropy, as HRNet
    # wide_resnet38: no script; W_38_D_8.json with the table's batch size
    # mobilenet_v2: no script; as ResNet-101
    backbone, _ = parse(argument, "published")
    return lip.recipe("ocnet", backbone)
