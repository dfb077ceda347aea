"""Lowers the train and eval step of all rows of the original's tables for a TPU, on any machine.

    python scripts/lower_for_tpu.py         # 76 recipes as they are, a quarter of an hour

Without weights, data or compilation. What was lowered goes to docs/results/lowering.json after each
row, and what is in there is not done again. MODEL_ZOO.md shows it.
"""

from __future__ import annotations

import json

import jax
import model_zoo
import zoo_rows

from openseg_jax import preflight
from openseg_jax.analysis import count_macs
from openseg_jax.targets import find_target

RESULTS = model_zoo.RESULTS / "lowering.json"
IMAGE = (1024, 2048)


def main() -> None:
    """Runs the command line."""
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {"rows": {}}
    results |= {"jax": jax.__version__, "image": IMAGE}
    for row in (row for dataset in zoo_rows.GRID for row in zoo_rows.table_rows(dataset)):
        if row not in results["rows"]:
            results["rows"][row] = lower(row)
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")
            print(row, results["rows"][row], flush=True)


def lower(row: str) -> dict[str, int]:
    """Parameters and multiply-accumulates of a row, once both its steps have been lowered."""
    config = preflight.for_target(zoo_rows.read(row), "tpu")
    target = find_target("cpu")
    state, graphs = preflight.abstract_state(config)
    steps = {
        "train": preflight.trace_train_step(config, target.devices[:1], state, graphs["train"]),
        "eval": preflight.trace_eval_step(config, target, state, graphs["eval"], IMAGE),
    }
    found = {"parameters": sum(leaf.size for leaf in jax.tree.leaves(state["params"]))}
    for name, traced in steps.items():
        program = traced.lower(lowering_platforms=("tpu",)).as_text()
        if "stablehlo.convolution" not in program:
            raise ValueError(f"The {name} step of {row} has no convolution.")
        found[f"{name}_macs"] = count_macs(traced.jaxpr.jaxpr)
    return found


if __name__ == "__main__":
    main()
