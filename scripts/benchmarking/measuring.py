"""Clocks and gauges."""

from __future__ import annotations

import contextlib
import gc
import math
import os
import statistics
import threading
import time
from pathlib import Path

from benchmarking.case import Program

PAUSE = 0.1  # seconds between programs, until PyTorch's threads no longer spin
SHORTEST = 0.5  # seconds of a measurement
MOST_STEPS = 50


def seconds_of_step(program: Program) -> float:
    """One step from start to end."""
    begin = time.perf_counter()
    program.start()
    program.wait()
    return time.perf_counter() - begin


def interleave(programs: dict[str, Program], rounds: int) -> dict:
    """Runs the programs in turns, each first equally often.

    A turn is one step that does not count, as it may have to get back memory that the system took
    during the other's turn (2 GB cost seconds in some virtual machines), and as many steps, without
    waiting in between, as take half a second.

    Returns:
        "steps" of a measurement, "first": seconds of each program's first step, and "rounds": for
        each program `wall`, `cpu` (all threads of the process) and `host` (until the call
        returned), in seconds a step.
    """
    first = {name: seconds_of_step(program) for name, program in programs.items()}
    fastest = min(seconds_of_step(program) for program in programs.values())
    steps = min(max(1, math.ceil(SHORTEST / fastest)), MOST_STEPS)
    names, times = list(programs), {name: [] for name in programs}
    gc.collect()
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            time.sleep(PAUSE)
            seconds_of_step(programs[name])
            times[name].append(_measure(programs[name], steps))
    return {"steps": steps, "first": first, "rounds": times}


def _measure(program: Program, steps: int) -> dict[str, float]:
    cpu, begin = time.process_time(), time.perf_counter()
    program.start()
    host = time.perf_counter() - begin
    for _ in range(steps - 1):
        program.start()
    program.wait()
    wall = time.perf_counter() - begin
    return {
        "wall": wall / steps,
        "cpu": (time.process_time() - cpu) / steps,
        "host": host,
    }


def spread(values: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    if len(values) == 1:
        return {"median": values[0], "low": values[0], "high": values[0]}
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "low": low, "high": high}


@contextlib.contextmanager
def resident_memory():
    """Watches this process's resident memory; yields a dict that has its `peak`, in bytes."""
    page, seen, stop = os.sysconf("SC_PAGE_SIZE"), {"peak": 0}, threading.Event()

    def watch():
        while not stop.wait(0.005):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            seen["peak"] = max(seen["peak"], pages * page)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield seen
    finally:
        stop.set()
        watcher.join()


def load() -> float:
    """Processes that wanted to run in the last minute."""
    return os.getloadavg()[0]
