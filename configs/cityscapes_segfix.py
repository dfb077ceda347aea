"""SegFix on Cityscapes: BACKBONE[,instances][,trainval]; without, boundaries are those of classes.

python -m openseg_jax.main --config=configs/cityscapes_segfix.py:hrnet_2x20 \
    --workdir=runs/cityscapes_segfix --config.init_from=hr_rnet_bt_w20_imagenet_pretrained.pth
"""

from openseg_jax.recipes import cityscapes, parse


def get_config(argument="hrnet_w48"):
    # cityscapes/segfix/run_h_48_d_4_segfix.sh, run_hx_20_d_2_segfix.sh, with H_SEGFIX.json
    backbone, instances, trainval = parse(argument, "instances", "trainval")
    config = cityscapes.recipe("segfix", backbone)
    config.data.boundaries = "instances" if instances else "classes"
    config.augment.update(steps=("crop", "flip", "brightness"), crop=(512, 512))
    config.loss.update(name="segfix", class_weights=())  # it has weights of its own
    config.optimizer.learning_rate = 0.04
    steps = 20_000 if instances else 80_000  # …_segfix_inst.sh
    if trainval:
        config.data.train_split = "trainval"
        if backbone == "hrnet_2x20" and not instances:  # run_hx_20_d_2_segfix_trainval.sh
            steps = 120_000
    config.train.update(batch_size=16, steps=steps, eval_every=2000)
    return config
