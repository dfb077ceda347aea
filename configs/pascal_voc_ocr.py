"""OCR on Pascal VOC: BACKBONE[,published] of the original's tables.

python -m openseg_jax.main --config=configs/pascal_voc_ocr.py:resnet101 \
    --workdir=runs/pascal_voc_ocr --config.init_from=resnet101-imagenet.pth

MODEL_ZOO.md lists the backbones and their ImageNet weights.
"""

from openseg_jax.recipes import parse, pascal_voc


def get_config(argument="resnet101"):
    # resnet101: spatial_ocrnet's script of 2019; hrnet_w48: hrnet48_ocr's
    # wide_resnet38: only a JSON in 2019
    # mobilenet_v2: no script; as ResNet-101
    backbone, _ = parse(argument, "published")
    return pascal_voc.recipe("ocr", backbone)
