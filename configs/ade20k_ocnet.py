"""OCNet (base-OC) on ADE20K: BACKBONE[,published] of the original's tables.

python -m openseg_jax.main --config=configs/ade20k_ocnet.py:resnet101 \
    --workdir=runs/ade20k_ocnet --config.init_from=resnet101-imagenet.pth

MODEL_ZOO.md lists the backbones and their ImageNet weights.
"""

from openseg_jax.recipes import ade20k, nearest, parse


def get_config(argument="resnet101"):
    # resnet101: ade20k/ocnet/run_res101d8_baseocnet_ade20k_seg.sh
    # wide_resnet38: no script; W_38_D_8.json
    # mobilenet_v2: no script; ResNet-101's with M_V2_D_8.json
    backbone, _ = parse(argument, "published")
    config = ade20k.recipe("ocnet", backbone)
    if nearest(backbone) == "hrnet_w48":  # no script; as ISA and OCR on HRNet
        config.loss.name = "ohem"
    return config
