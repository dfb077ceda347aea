"""Measures our networks beside their PyTorch twins; prints the tables and saves them as JSON.

    python scripts/benchmark.py                  # every network, training and evaluation
    python scripts/benchmark.py --quick          # two networks, speed only
    # a GPU, bfloat16 and AMP: training, then whole images
    python scripts/benchmark.py --mode train --size 512x1024 --batch 8 --compile
    python scripts/benchmark.py --mode eval --size 1024x2048 --batch 1 --compile --add

Each measurement runs in three processes one after the other, in which both frameworks take turns;
others start one framework alone with an empty and with a filled compilation cache.
`scripts/performance_page.py` puts the results into docs/performance.md. Needs PyTorch.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarking import parts
from benchmarking.case import Case, config_of
from benchmarking.command_line import RESULTS, kept_cases, net_name, positive, require_torch, size
from benchmarking.measuring import shares, together
from benchmarking.network_tables import network_tables

from openseg_jax import __version__
from openseg_jax.errors import UserError
from openseg_jax.progress import progress

NETS = (
    "ocr:mobilenet_v2",
    "fcn:resnet101",
    "ocnet:resnet101",
    "isa:resnet101",
    "ocr:resnet101",
    "ocr:hrnet_w48",
    "ocr:wide_resnet38",
)
QUICK_NETS = ("ocr:mobilenet_v2", "ocr:resnet101")


def main() -> None:
    """Measures what the arguments ask for, or does one part of it as a child of itself."""
    arguments = parse(sys.argv[1:])
    if arguments.part:
        print(json.dumps(do_part(json.loads(arguments.part))))
        return
    try:
        require_torch()
        require_twins(arguments.nets)
        with tempfile.TemporaryDirectory() as folder:
            failed = measure(arguments, Path(folder))
    except UserError as error:
        sys.exit(f"error: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(f"error: {_reason(error.stderr)}")
    if failed:
        sys.exit(f"error: {failed} measurements failed; the table says which.")


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="two networks, speed only, 9 rounds")
    parser.add_argument(
        "--nets",
        type=net_name,
        nargs="+",
        metavar="METHOD:BACKBONE",
        help=f"default: {' '.join(NETS)}",
    )
    parser.add_argument("--mode", choices=("train", "eval", "both"), default="both")
    parser.add_argument("--size", type=size, default=(256, 512), metavar="HEIGHTxWIDTH")
    parser.add_argument("--batch", type=positive, default=1, help="images a step (default 1)")
    parser.add_argument("--rounds", type=positive, help="turns of each side (default 15)")
    parser.add_argument(
        "--dtype", choices=("auto", "float32", "bfloat16"), default="auto", help="of activations"
    )
    parser.add_argument("--compile", action="store_true", help="torch.compile as a third side")
    parser.add_argument(
        "--attention",
        choices=("fused", "products"),
        default="fused",
        help="PyTorch's self-attention: its own kernels, or matrix products as in the original",
    )
    parser.add_argument("--speed-only", action="store_true", help="no start-up times, no memory")
    parser.add_argument("--add", action="store_true", help="keep what else is in the file")
    parser.add_argument("--out", type=Path, help="default: docs/results/benchmark_PLATFORM.json")
    parser.add_argument("--part", help=argparse.SUPPRESS)  # what a child of ours does
    parsed = parser.parse_args(arguments)
    parsed.nets = parsed.nets or (QUICK_NETS if parsed.quick else NETS)
    parsed.rounds = parsed.rounds or (9 if parsed.quick else 15)
    parsed.speed_only |= parsed.quick
    return parsed


def require_twins(nets: list[str]) -> None:
    """Refuses networks that have no PyTorch twin, before anything is measured."""
    import torch
    import torch_twins

    for net in nets:
        case = Case(*net.split(":"), mode="eval", size=(1, 1), batch=1, dtype="float32")
        try:
            with torch.device("meta"):  # takes neither memory nor random numbers
                torch_twins.build(config_of(case).model)
        except ValueError as error:
            raise UserError(f"--nets {net}: {error}. For example: {', '.join(NETS)}") from None


def measure(arguments: argparse.Namespace, folder: Path) -> int:
    """Measures every case, saving after each; returns how many failed."""
    machine = child({"part": "machine", "dtype": arguments.dtype}, folder / "machine")
    out = arguments.out or RESULTS / f"benchmark_{machine['platform']}.json"
    about = {"version": __version__, **machine}
    cases = kept_cases(out, about) if arguments.add else []
    failed = 0
    todo = cases_of(arguments, machine["dtype"])
    for number, case in enumerate(todo, start=1):
        result = {"case": dataclasses.asdict(case) | {"size": list(case.size)}}
        result["date"] = datetime.date.today().isoformat()
        result["peak_flops"] = machine["peak_flops"]  # another day it may be another machine
        title = f"{number}/{len(todo)} {case}"
        try:
            result |= measure_case(case, arguments, folder / str(number), title)
        except subprocess.CalledProcessError as error:
            failed += 1
            print(error.stderr, file=sys.stderr)
            result["error"] = _reason(error.stderr)
        cases = [each for each in cases if each["case"] != result["case"]] + [result]
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps({"machine": about, "cases": cases}, indent=1) + "\n")
    print(network_tables({"machine": about, "cases": cases}))
    print(f"Saved in {out}.")
    return failed


def cases_of(arguments: argparse.Namespace, dtype: str) -> list[Case]:
    """What the arguments ask to measure, in order."""
    modes = ("train", "eval") if arguments.mode == "both" else (arguments.mode,)
    settings = arguments.size, arguments.batch, dtype, arguments.attention == "fused"
    return [Case(*net.split(":"), mode, *settings) for net in arguments.nets for mode in modes]


def measure_case(case: Case, arguments: argparse.Namespace, caches: Path, title: str) -> dict:
    """The parts of a case, each in a process of its own.

    Args:
        caches: folder for compiled programs, empty before.
        title: stands before the progress bar.
    """
    alone = {}
    if not arguments.speed_only:
        sides = ["jax", "torch", *(["torch.compile"] if arguments.compile else [])]
        alone = {side: {"part": "alone", "side": side} for side in sides}
        alone["jax, cache filled"] = alone["jax"]
    compare = {"part": "compare", "compiled": arguments.compile}
    compare = [compare | {"rounds": rounds} for rounds in shares(arguments.rounds)]
    with progress(total=len(alone) + len(compare), desc=title, unit="process") as bar:

        def run(part: dict) -> dict:
            found = child({"case": dataclasses.asdict(case)} | part, caches)
            bar.update()
            return found

        found = {"alone": {name: run(part) for name, part in alone.items()}} if alone else {}
        return found | together([run(part) for part in compare])


def child(settings: dict, caches: Path) -> dict:
    """Does one part in another process."""
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(caches / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
        "TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor"),
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # PyTorch needs some of a GPU's memory
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",  # as `main.use_huge_pages`, for both sides
    }
    finished = subprocess.run(
        [sys.executable, __file__, "--part", json.dumps(settings)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(finished.stdout.splitlines()[-1])


def do_part(settings: dict) -> dict:
    """What a child does; see `parts`."""
    part = settings.pop("part")
    if "case" in settings:
        fields = settings["case"]
        settings["case"] = Case(**fields | {"size": tuple(fields["size"])})
    return {"compare": parts.compare, "alone": parts.alone, "machine": parts.machine}[part](
        **settings
    )


def _reason(text: str) -> str:
    """The line of a traceback that says what went wrong."""
    lines = [line for line in text.splitlines() if re.match(r"[\w.]+(Error|Exception)\b", line)]
    return lines[-1] if lines else "the process was killed, perhaps for its memory"


if __name__ == "__main__":
    main()
