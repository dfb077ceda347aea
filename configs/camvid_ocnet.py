"""OCNet with MobileNetV2 on CamVid (11 classes, 480x360), from ImageNet weights.

    openseg data build camvid --source CamVid
    python -m openseg_jax.main --config=configs/camvid_ocnet.py --workdir=runs/camvid_ocnet \
        --config.init_from=mobilenet_v2_imagenet_features.pt
"""

from openseg_jax.recipes import camvid, parse


def get_config(argument="mobilenet_v2"):
    (backbone,) = parse(argument)
    return camvid.recipe("ocnet", backbone)
