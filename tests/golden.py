"""Checks this code base against the golden numbers of the original PyTorch code.

    python tests/golden.py --root DIR [--kind eval|train|misc] [--group NAME] [--case SUBSTRING]

DIR is any folder in the format of golden/README.md. Exits non-zero when a case fails or is not
known. `--write` records the results, with version and commit, where certificates read them.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent), str(Path(__file__).resolve().parent)]
from goldens import Result, read_json  # noqa: E402

from openseg_jax import __version__  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "openseg_jax" / "goldens.json"


def groups(root: Path, kind: str | None, group: str | None) -> list[str]:
    """The names of the checker modules that this folder asks for."""
    found = []
    if kind in (None, "eval") and (root / "eval_index.json").is_file():
        found.append("eval")
    if kind in (None, "train") and (root / "train").is_dir():
        found.append("train")
    if kind in (None, "misc"):
        found += sorted(path.stem for path in (root / "misc").glob("*.json"))
    return [name for name in found if group in (None, name)]


def check(root: Path, names: list[str], wanted: str):
    """Yields (group, Result, seconds) for every case; an unknown group is a failure."""
    tolerance = read_json(root / "tolerance.json")
    for name in names:
        if not (Path(__file__).parent / "goldens" / f"{name}.py").is_file():
            yield name, Result(name, float("nan"), "no checker for this group"), 0.0
            continue
        module = importlib.import_module(f"goldens.{name}")
        start = time.perf_counter()
        for result in module.results(root, tolerance, wanted):
            yield name, result, time.perf_counter() - start
            start = time.perf_counter()


def record(rows: list[tuple[str, Result, float]]) -> None:
    """Writes the results where certificates and the zoo read them."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    known = json.loads(RECORD.read_text())["cases"] if RECORD.is_file() else {}
    for group, result, _ in rows:
        known[f"{group}/{result.name}"] = {
            "passed": result.passed,
            "error_over_tolerance": float(f"{result.error:.3g}"),
            "version": __version__,
            "commit": commit,
        }
    RECORD.write_text(json.dumps({"cases": dict(sorted(known.items()))}, indent=1) + "\n")
    print(f"recorded in {RECORD}")


def main() -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True, help="folder with golden numbers")
    parser.add_argument("--kind", choices=("eval", "train", "misc"))
    parser.add_argument("--group", help="one group of the kind misc, such as losses")
    parser.add_argument("--case", default="", help="only cases whose name contains this")
    parser.add_argument("--write", action="store_true", help=f"record the results in {RECORD}")
    options = parser.parse_args()
    rows = []
    print(f"{'verdict':8}{'error':>10}{'s':>7}  case (error in units of the tolerance)")
    for row in check(options.root, groups(options.root, options.kind, options.group), options.case):
        group, result, seconds = row
        verdict = "ok" if result.passed else "FAILED"
        print(
            f"{verdict:8}{result.error:10.3g}{seconds:7.1f}  {group}/{result.name}"
            + (f"  ({result.detail})" if result.detail else ""),
            flush=True,
        )
        rows.append(row)
    passed = sum(result.passed for _, result, _ in rows)
    print(f"{passed} passed, {len(rows) - passed} failed")
    if options.write:
        record(rows)
    return 0 if rows and passed == len(rows) else 1


if __name__ == "__main__":
    sys.exit(main())
