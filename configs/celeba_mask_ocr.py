"""OCR on CelebAMask-HQ, the argument being BACKBONE.

python -m openseg_jax.main --config=configs/celeba_mask_ocr.py:hrnet_w48 \
    --workdir=runs/celeba_mask_ocr --config.init_from=hrnetv2_w48_imagenet_pretrained.pth
"""

from openseg_jax.recipes import celeba_mask, parse


def get_config(argument="hrnet_w48"):
    # celeba/run_h_48_d_4_ocr_train.sh
    (backbone,) = parse(argument)
    return celeba_mask.recipe("ocr", backbone)
