"""Keeps the numbers of a finished run: `python scripts/record_run.py WORKDIR docs/results/X.json`.

Writes scores, protocol, curve and speed; no weights, no pictures.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path


def main() -> None:
    """Runs the command line."""
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    Path(sys.argv[2]).write_text(json.dumps(record(Path(sys.argv[1])), indent=1) + "\n")


def record(workdir: Path) -> dict:
    """The numbers of the run in `workdir`."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    config = json.loads((workdir / "config.json").read_text())
    training = [line for line in lines if line["kind"] == "train"]
    evaluations = [line for line in lines if line["kind"] == "eval"]
    last = json.loads((workdir / "eval" / f"{evaluations[-1]['step']}.json").read_text())
    del last["confusion"]
    batch = config["train"]["batch_size"]
    numbers = {
        "config": config,
        "run": next(line for line in reversed(lines) if line["kind"] == "run"),
        "curve": [[e["step"] * batch, e["miou"], e["pixel_acc"]] for e in evaluations],
        "images_per_second": statistics.median(t["images_per_second"] for t in training),
        "data_wait": statistics.median(t["data_wait"] for t in training),
        "final": last,
    }
    numbers["config"]["init_from"] = Path(config["init_from"]).name
    numbers["config"]["data"]["dir"] = ""
    return numbers


if __name__ == "__main__":
    main()
