"""Predicts a chip that is not at hand: our step and PyTorch's, kernel by kernel.

    python scripts/roofline.py                       # an NVIDIA H200
    python scripts/roofline.py --chip a100 --batch 4

Counts the arithmetic and the bytes of each kernel of a traced step and lets it take the longer of
the two times by the chip's data sheet; `benchmarking/roofline.py` says what is fused, and what is
not modelled. PyTorch's eager step is counted operation by operation, with kernels as good as ours.
Nothing is computed on the way. A prediction, no measurement: `scripts/performance_page.py` puts
that of the H200 into docs/performance.md. Needs PyTorch.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from benchmark import NETS, require_twins
from benchmarking.case import Case
from benchmarking.command_line import RESULTS, net_name, positive, require_torch, size
from benchmarking.network_tables import roofline_table
from benchmarking.roofline import Chip, kernels, seconds, total_bytes, total_flops

from openseg_jax import __version__
from openseg_jax.errors import UserError
from openseg_jax.progress import progress

# By their data sheets, without sparsity.
CHIPS = {
    "a100": Chip("NVIDIA A100 80GB", flops=312e12, wide_flops=19.5e12, bandwidth=2.04e12),
    "h100": Chip("NVIDIA H100 SXM", flops=989e12, wide_flops=67e12, bandwidth=3.35e12),
    "h200": Chip("NVIDIA H200", flops=989e12, wide_flops=67e12, bandwidth=4.8e12),
}


def main() -> None:
    """Counts what the arguments ask for, prints the table and saves it."""
    arguments = parse(sys.argv[1:])
    try:
        require_torch()
        require_twins(arguments.nets)
        found = predictions(arguments)
    except UserError as error:
        sys.exit(f"error: {error}")
    print(roofline_table(found))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    print(f"Saved in {arguments.out}.")


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--chip", choices=CHIPS, default="h200")
    parser.add_argument(
        "--nets",
        type=net_name,
        nargs="+",
        metavar="METHOD:BACKBONE",
        default=NETS,
        help=f"default: {' '.join(NETS)}",
    )
    parser.add_argument(
        "--size",
        type=size,
        default=(512, 1024),
        metavar="HEIGHTxWIDTH",
        help="of the crops of training (default 512x1024)",
    )
    parser.add_argument("--batch", type=positive, default=8, help="crops a step (default 8)")
    parser.add_argument(
        "--image",
        type=size,
        default=(1024, 2048),
        metavar="HEIGHTxWIDTH",
        help="of the images of evaluation, one at a time (default 1024x2048)",
    )
    parser.add_argument("--out", type=Path, help="default: docs/results/roofline_CHIP.json")
    parsed = parser.parse_args(arguments)
    parsed.out = parsed.out or RESULTS / f"roofline_{parsed.chip}.json"
    return parsed


def predictions(arguments: argparse.Namespace) -> dict:
    """The chip, and of each case both sides' FLOP, bytes and seconds a step."""
    chip = CHIPS[arguments.chip]
    shapes = ("train", arguments.size, arguments.batch), ("eval", arguments.image, 1)
    todo = [
        Case(*net.split(":"), *shape, dtype="bfloat16")
        for net in arguments.nets
        for shape in shapes
    ]
    cases = []
    for case in progress(todo, desc=chip.name, unit="case"):
        about = dataclasses.asdict(case) | {"size": list(case.size)}
        sides = {side: predicted(case, side, chip) for side in ("jax", "torch")}
        cases.append({"case": about, "sides": sides})
    return {"chip": dataclasses.asdict(chip), "version": __version__, "cases": cases}


def predicted(case: Case, side: str, chip: Chip) -> dict:
    """What one side's step computes and moves, and how long that takes."""
    if side == "jax":
        from benchmarking.jax_program import step_jaxpr

        program = kernels(step_jaxpr(case))
    else:
        from benchmarking.eager import eager_kernels

        program = eager_kernels(case)
    return {
        "flops": total_flops(program),
        "bytes": total_bytes(program),
        "seconds": seconds(program, chip),
    }


if __name__ == "__main__":
    main()
