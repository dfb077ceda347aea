"""Checks of our numbers against those that the original PyTorch code produced.

One module a kind or group; each has `results(root, tolerance, wanted)`, which yields a `Result`
for every case of the folder `root` whose name contains `wanted`.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np


@dataclasses.dataclass(frozen=True)
class Result:
    """The verdict on one case: its largest error in units of what is allowed there."""

    name: str
    error: float  # 1 is the tolerance; NaN or infinity where nothing could be compared
    detail: str = ""  # where the largest error is, or why the case could not be run

    @property
    def passed(self) -> bool:
        return self.error <= 1  # a NaN is a failure


class UnknownCase(Exception):
    """A case of a kind that the checker does not know; it becomes a failing result."""


class Worst:
    """Collects comparisons of one case and remembers the worst."""

    def __init__(self, name: str):
        self.name, self.error, self.detail, self.count = name, 0.0, "", 0

    def add(self, what: str, error: float) -> None:
        """`error` is in units of the tolerance."""
        self.count += 1
        if not error <= self.error and not np.isnan(self.error):  # a NaN is the worst
            self.error, self.detail = float(error), what

    def equal(self, what: str, ours: np.ndarray, reference: np.ndarray) -> None:
        """Asks for exactly equal arrays."""
        ours, reference = np.asarray(ours), np.asarray(reference)
        if ours.shape != reference.shape:
            self.add(f"{what}: shape {ours.shape}, not {reference.shape}", np.inf)
        else:
            self.add(what, 0.0 if np.array_equal(ours, reference) else np.inf)

    def close(self, what: str, ours, reference, allowed: float) -> None:
        """Asks for a largest absolute difference of at most `allowed`."""
        ours, reference = np.asarray(ours, np.float64), np.asarray(reference, np.float64)
        if ours.shape != reference.shape:
            self.add(f"{what}: shape {ours.shape}, not {reference.shape}", np.inf)
            return
        difference = np.abs(ours - reference).max(initial=0.0)
        self.add(what, difference / allowed if allowed else (np.inf if difference else 0.0))

    def result(self) -> Result:
        """The verdict; a case in which nothing was compared fails."""
        if not self.count:
            return Result(self.name, float("nan"), "nothing was compared")
        return Result(self.name, self.error, self.detail)


def read_json(path: Path):
    """The content of a JSON file."""
    return json.loads(path.read_text())
