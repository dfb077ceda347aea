"""OCR with half as many channels (OCR_B) on Mapillary Vistas, the argument being BACKBONE.

python -m openseg_jax.main --config=configs/mapillary_ocr_b.py:hrnet_w48 \
    --workdir=runs/mapillary_ocr_b --config.init_from=hrnetv2_w48_imagenet_pretrained.pth

It is what cityscapes_ocr_stages.py goes on from.
"""

from openseg_jax.recipes import NARROW_OCR, at_side, parse, start


def get_config(argument="hrnet_w48"):
    # mapillary/run_h_48_d_4_ocr_b.sh as it runs: two of its flags are lost to a missing backslash
    (backbone,) = parse(argument)
    config = start("mapillary", "ocr", backbone)
    config.model.update(NARROW_OCR)
    at_side(config, 1024)
    config.augment.steps = ("resize", "random_resize", "crop", "flip", "brightness")
    config.loss.update(ohem_threshold=0.9, ohem_min_kept=100_000)
    config.optimizer.update(learning_rate=0.01, weight_decay=5e-4)
    config.train.update(batch_size=16, steps=500_000, eval_every=5000)
    config.eval.fit_stride = 8
    return config
