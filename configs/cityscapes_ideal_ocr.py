"""OCR told the true regions, an upper bound, on Cityscapes; the argument is BACKBONE.

python -m openseg_jax.main --config=configs/cityscapes_ideal_ocr.py:resnet101 \
    --workdir=runs/cityscapes_ideal_ocr --config.init_from=resnet101-imagenet.pth

Variants: --config.model.method=ideal_ocr_b, ideal_ocr_c, ideal_gather_ocr, ideal_distribute_ocr.
"""

from openseg_jax.recipes import cityscapes, parse


def get_config(argument="resnet101"):
    # cityscapes/ocrnet/run_ideal_spatial_ocrnet.sh; the variants' run_ideal_….sh are as this
    (backbone,) = parse(argument)
    config = cityscapes.recipe("ideal_ocr", backbone)
    config.train.update(batch_size=8, steps=40_000)
    return config
