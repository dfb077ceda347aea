"""Compiles the networks of the tables for a TPU slice; needs no TPU, only `pip install "jax[tpu]"`.

    python scripts/compile_for_tpu.py                       # 16 networks, minutes each
    python scripts/compile_for_tpu.py --rows cityscapes_ocr:hrnet_w48

The train and eval steps of the Cityscapes recipes as they are, 1024x2048 images in evaluation.
What the TPU compiler says goes to docs/results/tpu.json after each network, and what is in there
is not done again. MODEL_ZOO.md shows it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json

import model_zoo
import zoo_rows

from openseg_jax import preflight
from openseg_jax.targets import find_target

RESULTS = model_zoo.RESULTS / "tpu.json"
IMAGE = (1024, 2048)


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", default="tpu-v5e:2x4")
    parser.add_argument("--rows", nargs="+", default=zoo_rows.table_rows("cityscapes"))
    options = parser.parse_args()
    target = find_target(options.target)
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {"rows": {}}
    results |= dict(target=options.target, compiler=target.compiler, memory=target.memory)
    for row in options.rows:
        if row in results["rows"]:
            continue
        config = zoo_rows.read(row)
        parameters, costs = preflight.preflight(config, target, IMAGE)
        print(f"{row}\n{preflight.table(parameters, costs, target, target.memory)}\n", flush=True)
        results["rows"][row] = dict(
            parameters=parameters,
            batch=config.train.batch_size,
            train=dataclasses.asdict(costs[0]),
            eval=dataclasses.asdict(costs[1]),
        )
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
