"""Converts a PyTorch checkpoint of the original: the command `openseg convert`.

python convert/torch2flax.py --checkpoint X.pth --out DIR [--config configs/F.py]
"""

import sys

from openseg_jax.cli import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
