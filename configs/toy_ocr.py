"""OCR on the embedded toy data, small enough for two CPU cores and five minutes.

openseg data build toy_street
python -m openseg_jax.main --config=configs/toy_ocr.py --workdir=runs/toy
"""

from openseg_jax.config import default_config


def get_config(backbone="mobilenet_v2"):
    config = default_config()
    config.data.name = "toy_street"
    config.model.update(
        backbone=backbone, num_classes=10, channels=64, key_channels=32, aux_channels=64
    )
    config.augment.update(scale=(0.9, 1.1), crop=(128, 192))
    # The gentle warm-up lets a high rate work, and runs on 1 and 8 devices start out alike.
    config.optimizer.update(
        name="adamw", learning_rate=8e-3, weight_decay=0.02, warmup_steps=50, warmup="quartic"
    )
    config.train.update(
        steps=1200, batch_size=4, log_every=10, eval_every=300, checkpoint_every=300
    )
    return config
