"""What the benchmarks' command lines share: arguments, and results of an earlier run."""

from __future__ import annotations

import argparse
import importlib.util
import json
from pathlib import Path

from openseg_jax.errors import UserError

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"


def size(text: str) -> tuple[int, int]:
    """The argument HEIGHTxWIDTH."""
    height, _, width = text.partition("x")
    try:
        return positive(height), positive(width)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"{text!r}: write HEIGHTxWIDTH in pixels, as in 256x512"
        ) from None


def net_name(text: str) -> str:
    """The argument METHOD:BACKBONE."""
    if text.count(":") != 1:
        raise argparse.ArgumentTypeError(f"{text!r}: write METHOD:BACKBONE, as in ocr:mobilenet_v2")
    return text


def positive(text: str) -> int:
    """An argument that counts something."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def require_torch() -> None:
    """Refuses to start without PyTorch."""
    if importlib.util.find_spec("torch") is None:
        raise UserError("The benchmark compares with PyTorch. Install it: pip install torch")


def kept_cases(out: Path, machine: dict) -> list[dict]:
    """The cases of an earlier run, which must be of the same machine and versions."""
    if not out.exists():
        return []
    saved = json.loads(out.read_text())
    for key in ("device", "cores", "dtype", "version", "versions"):
        if saved["machine"].get(key) != machine.get(key):
            raise UserError(
                f"{out} was measured with {key} {saved['machine'].get(key)}, this is "
                f"{machine.get(key)}. Choose another --out, or leave out --add to start anew."
            )
    return saved["cases"]
