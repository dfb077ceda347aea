"""`make demo`: builds the toy data, trains OCR on it, evaluates, and shows where all is."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from openseg_jax import cli
from openseg_jax.main import use_huge_pages

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Runs the demo; the exit code."""
    use_huge_pages()
    os.chdir(ROOT)
    os.environ.setdefault("OPENSEG_DATA", str(ROOT / "runs" / "data"))
    built = cli.main(["data", "build", "toy_street"])
    if built:
        return built
    trained = cli.main(["train", "--config=configs/toy_ocr.py", "--workdir=runs/demo"])
    if not trained:
        print("Look at runs/demo/report.html; try `openseg predict --help` next.")
    return trained


if __name__ == "__main__":
    sys.exit(main())
