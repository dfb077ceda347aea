"""OCR told the true regions, an upper bound, on COCO-Stuff-10K; the argument is BACKBONE.

python -m openseg_jax.main --config=configs/coco_stuff_ideal_ocr.py:resnet101 \
    --workdir=runs/coco_stuff_ideal_ocr --config.init_from=resnet101-imagenet.pth

Variants: --config.model.method=ideal_ocr_b, ideal_ocr_c, ideal_gather_ocr, ideal_distribute_ocr.
"""

from openseg_jax.recipes import coco_stuff, parse


def get_config(argument="resnet101"):
    # coco_stuff/run_r_101_d_8_gt_ocr_train.sh
    (backbone,) = parse(argument)
    return coco_stuff.recipe("ideal_ocr", backbone)
