"""Trains FCN, OCNet, ISA and OCR on CamVid under one budget of CPU time.

    python scripts/camvid_comparison.py --weights mobilenet_v2_imagenet_features.pt

What differs is the head, and how many steps the budget pays for: the CPU time of a step, of all
cores together, is measured first. Results go to docs/results/camvid_methods.json after each run;
what is in there is not done again, and a run that was stopped goes on. `scripts/camvid_page.py`
makes the table.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path

from record_run import record

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results" / "camvid_methods.json"
METHODS = ("fcn", "ocnet", "isa", "ocr")
EVALUATIONS = 5  # of each run


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", required=True, help="ImageNet weights of MobileNetV2")
    parser.add_argument("--minutes", type=float, default=12.0, help="of CPU time for the steps")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--workdir", type=Path, default=Path("runs/camvid_methods"))
    options = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {"runs": {}}
    results["minutes"] = options.minutes
    lengths = options.workdir / "steps.json"
    steps = json.loads(lengths.read_text()) if lengths.is_file() else {}
    for seed in options.seeds:
        for method in METHODS:
            if method not in steps:
                seconds = seconds_of_a_step(method, options.weights, options.workdir / "timing")
                steps[method] = int(60 * options.minutes / seconds)
                lengths.write_text(json.dumps(steps))
            if f"{method} {seed}" in results["runs"]:
                continue
            workdir = options.workdir / f"{method}_{seed}"
            every = -(-steps[method] // EVALUATIONS)
            train(method, options.weights, workdir, steps[method], every, seed)
            results["runs"][f"{method} {seed}"] = record(workdir)
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")


def seconds_of_a_step(method: str, weights: str, workdir: Path) -> float:
    """CPU time: of a run of 44 steps less that of a run of 4, which has compiled the program."""
    used = []
    for steps in (4, 4, 44):
        before = cpu_seconds_of_children()
        train(method, weights, workdir / f"{method}_{steps}_{len(used)}", steps, steps, seed=0)
        used.append(cpu_seconds_of_children() - before)
    return (used[2] - used[1]) / 40


def cpu_seconds_of_children() -> float:
    """Of all finished child processes so far, in all their threads."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def train(method: str, weights: str, workdir: Path, steps: int, every: int, seed: int) -> None:
    """One run of the program, as a user would start it."""
    print(f"{method}, seed {seed}, {steps} steps", flush=True)
    command = [sys.executable, "-m", "openseg_jax.main", f"--workdir={workdir}"]
    command += [f"--config={ROOT}/configs/camvid_{method}.py", f"--config.init_from={weights}"]
    command += [f"--config.train.steps={steps}", f"--config.train.eval_every={every}"]
    if subprocess.run([*command, f"--config.seed={seed}"]).returncode:
        sys.exit(f"error: the training of {method} stopped; the message above says why.")


if __name__ == "__main__":
    main()
