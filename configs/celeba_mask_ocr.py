"""OCR on CelebAMask-HQ, the argument being BACKBONE.

python -m openseg_jax.main --config=configs/celeba_mask_ocr.py:hrnet_w48 \
    --workdir=runs/celeba_mask_ocr --config.init_from=hrnetv2_w48_imagenet_pretrained.pth
"""

from openseg_jax.recipes import at_side, parse, start


def get_config(argument="hrnet_w48"):
    # celeba/run_h_48_d_4_ocr_train.sh
    (backbone,) = parse(argument)
    config = start("celeba_mask", "ocr", backbone)
    at_side(config, 512)
    config.augment.update(resize=(512, 512), resize_min_side=0)
    config.loss.update(ohem_threshold=0.7, ohem_min_kept=100_000)
    config.optimizer.update(learning_rate=0.001, head_lr_multiplier=10.0, weight_decay=1e-4)
    config.train.update(batch_size=16, steps=150_000, eval_every=2000)
    config.eval.update(size=(512, 512), shorter_side=0)
    return config
