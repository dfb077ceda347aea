"""OCR with MobileNetV2 on your own images and masks.

    openseg data init FOLDER
    openseg data build folder --source FOLDER --name NAME
    python -m openseg_jax.main --config=configs/folder_ocr.py:NAME --workdir=runs/NAME

After the name may come a backbone: `NAME,resnet101`. Instead of a name, the folder of a built data
set can be given.
"""

from openseg_jax.config import default_config
from openseg_jax.data.folder import configure
from openseg_jax.errors import UserError


def get_config(arg=""):
    name, _, backbone = arg.partition(",")
    if not name:
        raise UserError("Which data set? Give its name: --config=configs/folder_ocr.py:NAME")
    # Classes, colours, class weights and crop are those of the data set as it was built.
    config = configure(default_config(), name)
    config.model.update(
        backbone=backbone or "mobilenet_v2",
        output_stride=16,
        channels=256,
        key_channels=128,
        aux_channels=128,
    )
    config.optimizer.update(learning_rate=0.01, head_lr_multiplier=5.0)
    config.train.update(steps=4000, batch_size=8, eval_every=500, checkpoint_every=500)
    return config
