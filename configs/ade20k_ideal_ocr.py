"""OCR told the true regions, an upper bound, on ADE20K; the argument is BACKBONE.

python -m openseg_jax.main --config=configs/ade20k_ideal_ocr.py:resnet101 \
    --workdir=runs/ade20k_ideal_ocr --config.init_from=resnet101-imagenet.pth

Variants: --config.model.method=ideal_ocr_b, ideal_ocr_c, ideal_gather_ocr, ideal_distribute_ocr.
"""

from openseg_jax.recipes import ade20k, parse


def get_config(argument="resnet101"):
    # ade20k/ocrnet/run_res101d8_ideal_ocr_ade20k.sh; resnet50: run_res50d8_…
    (backbone,) = parse(argument)
    return ade20k.recipe("ideal_ocr", backbone)
