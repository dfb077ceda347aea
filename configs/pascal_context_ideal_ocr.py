"""OCR told the true regions, an upper bound, on Pascal-Context; the argument is BACKBONE.

python -m openseg_jax.main --config=configs/pascal_context_ideal_ocr.py:resnet101 \
    --workdir=runs/pascal_context_ideal_ocr --config.init_from=resnet101-imagenet.pth

Variants: --config.model.method=ideal_ocr_b, ideal_ocr_c, ideal_gather_ocr, ideal_distribute_ocr.
"""

from openseg_jax.recipes import parse, pascal_context


def get_config(argument="resnet101"):
    # pascal_context/run_r_101_d_8_gt_ocr_train.sh
    (backbone,) = parse(argument)
    return pascal_context.recipe("ideal_ocr", backbone)
