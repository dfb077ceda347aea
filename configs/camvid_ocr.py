"""OCR with MobileNetV2 on CamVid (11 classes, 480x360), from ImageNet weights.

    openseg data build camvid --source CamVid
    python -m openseg_jax.main --config=configs/camvid_ocr.py --workdir=runs/camvid \
        --config.init_from=mobilenet_v2_imagenet_features.pt
"""

from openseg_jax.config import default_config

# sqrt(median frequency / frequency) over the pixels of the training split.
CLASS_WEIGHTS = (0.52, 0.44, 2.14, 0.38, 1.00, 0.68, 1.96, 2.00, 0.87, 2.65, 3.92)


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
        steps=2680, batch_size=8, log_every=20, eval_every=400, checkpoint_every=200
    )
    return config
