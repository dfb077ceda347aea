"""Predicts a GPU that is not at hand: our step as compiled for it, and PyTorch's eager step.

    python scripts/roofline.py                       # an NVIDIA H200
    python scripts/roofline.py --chip a100 --batch 4

Counts the arithmetic and the bytes of each kernel and lets it take the longer of the two times by
the chip's data sheet. Ours are those of the compiled program, which `pip install "jax[cuda12]"`
makes without a GPU; PyTorch's are one an operation. Nothing is computed on the way. A prediction,
no measurement: `scripts/performance_page.py` puts that of the H200 into docs/performance.md. Needs
PyTorch.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from importlib import metadata
from pathlib import Path

from benchmark import NETS, require_twins
from benchmarking.case import Case
from benchmarking.command_line import RESULTS, net_name, positive, require_torch, size
from benchmarking.network_tables import roofline_table
from benchmarking.roofline import Chip, Kernel, seconds, total_bytes, total_flops

from openseg_jax import __version__
from openseg_jax.errors import UserError
from openseg_jax.progress import progress

# FLOP a second of dense bfloat16 and of float32 products, by their data sheets.
FLOPS = {"a100": (312e12, 19.5e12), "h100": (989e12, 67e12), "h200": (989e12, 67e12)}


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
    if arguments.out is None:
        print("Not saved, as it is not the whole table: --out names a file.")
        return
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    print(f"Saved in {arguments.out}.")


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--chip", choices=FLOPS, default="h200")
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
    help = "default: docs/results/roofline_CHIP.json, where nothing but --chip is given"
    parser.add_argument("--out", type=Path, help=help)
    parsed = parser.parse_args(arguments)
    if parsed == parser.parse_args(["--chip", parsed.chip]):
        parsed.out = RESULTS / f"roofline_{parsed.chip}.json"
    return parsed


def predictions(arguments: argparse.Namespace) -> dict:
    """The chip, and of each case what both sides' steps compute, move and keep in memory."""
    from benchmarking.eager import eager_step

    from openseg_jax.targets import GPUS, find_target

    target = find_target(f"gpu-{arguments.chip}")
    gpu = GPUS[arguments.chip]
    chip = Chip(gpu.name, *FLOPS[arguments.chip], bandwidth=gpu.bandwidth * 1e9)
    shapes = ("train", arguments.size, arguments.batch), ("eval", arguments.image, 1)
    todo = [
        Case(*net.split(":"), *shape, dtype="bfloat16")
        for net in arguments.nets
        for shape in shapes
    ]
    cases = []
    for case in progress(todo, desc=chip.name, unit="case"):
        about = dataclasses.asdict(case) | {"size": list(case.size)}
        sides = {"jax": ours(case, target), "torch": eager_step(case)}
        found = {side: predicted(*step, chip) for side, step in sides.items()}
        cases.append({"case": about, "sides": found})
    versions = {name: metadata.version(name) for name in ("jax", "jaxlib", "torch")}
    return {
        "chip": dataclasses.asdict(chip),
        "version": __version__,
        "versions": versions,
        "cases": cases,
    }


def ours(case: Case, target) -> tuple[list[Kernel], int]:
    """The kernels and the peak memory in bytes of our step, compiled for a `targets.Target`."""
    from benchmarking.compiled import kernels
    from benchmarking.jax_program import compile_for

    compiled = compile_for(case, target)
    memory = compiled.memory_analysis()
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    peak = memory.argument_size_in_bytes + memory.temp_size_in_bytes + results
    return kernels(compiled.as_text()), peak


def predicted(program: list[Kernel], peak: int, chip: Chip) -> dict:
    """What the kernels compute and move, and how long that takes."""
    return {
        "kernels": sum(kernel.times for kernel in program),
        "flops": total_flops(program),
        "bytes": total_bytes(program),
        "seconds": seconds(program, chip),
        "memory": peak,
    }


if __name__ == "__main__":
    main()
