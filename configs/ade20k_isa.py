"""ISA on ADE20K: BACKBONE[,published] of the original's tables.

python -m openseg_jax.main --config=configs/ade20k_isa.py:resnet101 \
    --workdir=runs/ade20k_isa --config.init_from=resnet101-imagenet.pth

MODEL_ZOO.md lists the backbones and their ImageNet weights.
"""

from openseg_jax.recipes import ade20k, nearest, parse


def get_config(argument="resnet101"):
    # resnet101: no script; R_101_D_8.json, as OCNet
    # wide_resnet38: ade20k/isa/run_wideb5_isanet_ade20k.sh
    # mobilenet_v2: no script; ResNet-101's with M_V2_D_8.json
    backbone, _ = parse(argument, "published")
    config = ade20k.recipe("isa", backbone)
    if nearest(backbone) == "hrnet_w48":  # ade20k/hrnet/run_h_48_d_4_isa_ohem.sh
        config.loss.name = "ohem"
    return config
