"""OCR on ADE20K: BACKBONE[,published] of the original's tables.

python -m openseg_jax.main --config=configs/ade20k_ocr.py:resnet101 \
    --workdir=runs/ade20k_ocr --config.init_from=resnet101-imagenet.pth

MODEL_ZOO.md lists the backbones and their ImageNet weights.
"""

from openseg_jax.recipes import ade20k, nearest, parse


def get_config(argument="resnet101"):
    # resnet101: ade20k/ocrnet/run_res101d8_ocr_ade20k.sh
    # wide_resnet38: no script; W_38_D_8.json
    # mobilenet_v2: no script; ResNet-101's with M_V2_D_8.json
    backbone, _ = parse(argument, "published")
    config = ade20k.recipe("ocr", backbone)
    if nearest(backbone) == "hrnet_w48":  # ade20k/hrnet/run_h_48_d_4_ocr_ohem.sh, the only one
        config.loss.name = "ohem"
    return config
