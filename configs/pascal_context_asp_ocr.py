"""ASP-OCR on Pascal-Context, the argument being BACKBONE.

python -m openseg_jax.main --config=configs/pascal_context_asp_ocr.py:resnet101 \
    --workdir=runs/pascal_context_asp_ocr --config.init_from=resnet101-imagenet.pth
"""

from openseg_jax.recipes import parse, pascal_context


def get_config(argument="resnet101"):
    # pascal_context/run_r_101_d_8_aspocr_train.sh
    (backbone,) = parse(argument)
    return pascal_context.recipe("asp_ocr", backbone)
