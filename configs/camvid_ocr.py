"""OCR with MobileNetV2 on CamVid (11 classes, 480x360), from ImageNet weights.

    openseg data build camvid --source CamVid
    python -m openseg_jax.main --config=configs/camvid_ocr.py --workdir=runs/camvid \
        --config.init_from=mobilenet_v2_imagenet_features.pt
"""

from openseg_jax.config import default_config

# Median frequency balancing on the training split, with the square root taken to temper it.
CLASS_WEIGHTS = (0.54, 0.46, 2.24, 0.40, 1.05, 0.71, 2.05, 2.09, 0.92, 2.78, 4.11)


def get_config(backbone="mobilenet_v2"):
    config = default_config()
    config.data.name = "camvid"
    config.model.update(
        backbone=backbone,
        num_classes=11,
        output_stride=16,
        channels=256,
        key_channels=128,
        aux_channels=128,
    )
    config.augment.update(scale=(0.6, 1.8), crop=(320, 320))
    config.loss.class_weights = CLASS_WEIGHTS
    config.optimizer.update(learning_rate=0.01, head_lr_multiplier=5.0)
    config.train.update(
        steps=2680, batch_size=8, log_every=20, eval_every=200, checkpoint_every=200
    )
    return config
