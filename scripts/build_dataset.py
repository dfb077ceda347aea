"""Builds a data set: `python scripts/build_dataset.py NAME --source DIR_OR_ARCHIVE [--out DIR]`.

The same as `openseg data build`.
"""

import sys

from openseg_jax.cli import main

if __name__ == "__main__":
    sys.exit(main(["data", "build", *sys.argv[1:]]))
