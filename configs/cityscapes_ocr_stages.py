"""The original's way to its best Cityscapes model, in stages: BACKBONE[,coarse][,final].

C=configs/cityscapes_ocr_stages.py
python -m openseg_jax.main --config=configs/mapillary_ocr_b.py --workdir=runs/mapillary_ocr_b \
    --config.init_from=hrnetv2_w48_imagenet_pretrained.pth
python -m openseg_jax.main --config=$C:hrnet_w48 --workdir=runs/hrnet_w48_trainval
python -m openseg_jax.main --config=$C:hrnet_w48,coarse --workdir=runs/hrnet_w48_coarse
python -m openseg_jax.main --config=$C:hrnet_w48,final --workdir=runs/hrnet_w48_final

With resnet101 there is no stage on Mapillary, but --config.init_from=resnet101-imagenet.pth.
Scores on val mean little here: it is trained on, too.
"""

from openseg_jax.recipes import NARROW_OCR, cityscapes, nearest, parse

# (batch size, steps, learning rate) of: train + val, the coarse labels, train + val again.
ON_HRNET = (8, 120_000, 1e-3), (16, 50_000, 1e-4), (8, 20_000, 1e-4)
ON_RESNET = (8, 120_000, 1e-2), (8, 100_000, 1e-4), (8, 10_000, 1e-4)


def get_config(argument="hrnet_w48"):
    # hrnet_w48: cityscapes/hrnet/run_h_48_d_4_ocr_b_mapillary_trainval_ohem.sh, …_trainval_coarse_…
    # resnet101: cityscapes/ocrnet/run_r_101_d_8_ocrnet_trainval.sh, as meant, run_spatial_ocrnet_…
    backbone, coarse, final = parse(argument, "coarse", "final")
    config = cityscapes.recipe("ocr", backbone)
    on_hrnet = nearest(backbone) == "hrnet_w48"
    stage = 2 if final else 1 if coarse else 0
    batch_size, steps, learning_rate = (ON_HRNET if on_hrnet else ON_RESNET)[stage]
    before = "runs/mapillary_ocr_b" if on_hrnet else ""
    config.init_from = (before, f"runs/{backbone}_trainval", f"runs/{backbone}_coarse")[stage]
    config.init_strict = stage > 0  # Mapillary has other classes
    config.model.update(NARROW_OCR if on_hrnet else {})
    config.data.train_split = "train_extra" if stage == 1 else "trainval"
    config.loss.name = "ohem"
    config.optimizer.learning_rate = learning_rate
    config.train.update(batch_size=batch_size, steps=steps)
    config.train.freeze_norm = stage == 1  # reported as +0.1 by the original, whose code cannot
    config.train.eval_every = 2000 if on_hrnet else 1000
    return config
