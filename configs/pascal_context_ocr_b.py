"""OCR with half as many channels (OCR_B) on Pascal-Context, the argument being BACKBONE.

python -m openseg_jax.main --config=configs/pascal_context_ocr_b.py:hrnet_w48 \
    --workdir=runs/pascal_context_ocr_b --config.init_from=hrnetv2_w48_imagenet_pretrained.pth
"""

from openseg_jax.recipes import NARROW_OCR, parse, pascal_context


def get_config(argument="hrnet_w48"):
    # pascal_context/run_h_48_d_4_ocr_b_train.sh
    (backbone,) = parse(argument)
    config = pascal_context.recipe("ocr", backbone, published=True)
    config.model.update(NARROW_OCR)
    return config
