"""Writes a checkpoint of ours as the original's state dict: the command `openseg convert`.

python convert/flax2torch.py --checkpoint DIR --out X.pth
"""

import sys

from openseg_jax.cli import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
