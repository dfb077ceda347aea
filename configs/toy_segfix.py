"""SegFix on the embedded toy data: a few minutes on two CPU cores.

openseg data build toy_street
python -m openseg_jax.main --config=configs/toy_segfix.py --workdir=runs/toy_segfix
"""

from openseg_jax.config import default_config


def get_config(backbone="mobilenet_v2"):
    config = default_config()
    config.data.update(name="toy_street", boundaries="classes")
    config.model.update(method="segfix", backbone=backbone, num_classes=10, channels=64)
    # At twice the size of the images, whose regions are small beside the maximal distance.
    config.augment.update(scale=(2.0, 2.0), crop=(192, 256))
    config.eval.shorter_side = 256
    config.loss.name = "segfix"
    config.optimizer.update(
        name="adamw", learning_rate=4e-3, weight_decay=0.02, warmup_steps=30, warmup="quartic"
    )
    config.train.update(steps=500, batch_size=4, log_every=20, eval_every=250, checkpoint_every=250)
    return config
