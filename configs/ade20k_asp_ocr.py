"""ASP-OCR on ADE20K, the argument being BACKBONE.

python -m openseg_jax.main --config=configs/ade20k_asp_ocr.py:resnet101 \
    --workdir=runs/ade20k_asp_ocr --config.init_from=resnet101-imagenet.pth
"""

from openseg_jax.recipes import ade20k, nearest, parse


def get_config(argument="resnet101"):
    # resnet101: ade20k/ocrnet/run_res101d8_aspocr_ade20k.sh
    (backbone,) = parse(argument)
    config = ade20k.recipe("asp_ocr", backbone)
    if nearest(backbone) == "hrnet_w48":  # ade20k/hrnet/run_h_48_d_4_asp_ocr_ohem.sh
        config.loss.name = "ohem"
    return config
