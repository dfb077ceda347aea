"""Clocks and gauges."""

from __future__ import annotations

import contextlib
import gc
import math
import os
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from benchmarking.case import Program

PAUSE = 0.1  # seconds between programs, until PyTorch's threads no longer spin
SHORTEST = 0.5  # seconds of a measurement
MOST_STEPS = 50
QUIET = 0.05  # of the cores' time is what other processes may take in a turn
NEAR = 2.0  # times as long may a core work on what another one wrote
PATIENCE = 120  # seconds that the rounds of a process wait, in all, for cores that share a cache
MOST_TRIES = 3  # rounds that are run for each that is asked for
PROCESSES = 3  # that share the rounds: a process may be faster or slower throughout


def seconds_of_step(program: Program) -> float:
    """One step from start to end."""
    begin = time.perf_counter()
    program.start()
    program.wait()
    return time.perf_counter() - begin


def interleave(programs: dict[str, Program], rounds: int) -> dict:
    """Runs the programs in turns, each first in its turn.

    A turn is one step that does not count, as it may have to get back memory that the system took
    during the other's turn (2 GB cost seconds in some virtual machines), and as many steps, without
    waiting in between, as take half a second. Rounds that other processes disturbed, or in which
    the cores did not share a cache, are run again; where that does not end, the least disturbed
    are kept.

    Returns:
        "steps" of a measurement, "first": seconds of each program's first step, "tries": rounds
        that were run, and "rounds", those kept: for each program `wall`, `cpu` (all threads of the
        process) and `host` (until the call returned), in seconds a step, `others`: the share of
        the cores' time that other processes took, and `handover`.
    """
    first = {name: seconds_of_step(program) for name, program in programs.items()}
    fastest = min(seconds_of_step(program) for program in programs.values())
    steps = min(max(1, math.ceil(SHORTEST / fastest)), MOST_STEPS)
    names, tried, quiet, patience = list(programs), [], 0, PATIENCE
    gc.collect()
    while quiet < rounds and len(tried) < MOST_TRIES * rounds:
        patience -= wait_until_near(patience)
        turn, times = len(tried) % len(names), {}
        for name in names[turn:] + names[:turn]:
            time.sleep(PAUSE)
            seconds_of_step(programs[name])
            times[name] = _measure(programs[name], steps) | {"handover": handover()}
        tried.append(times)
        quiet += not apart(times) and disturbance(times) <= QUIET
    order = sorted(range(len(tried)), key=lambda i: (apart(tried[i]), disturbance(tried[i])))
    kept = sorted(order[:rounds])
    return {
        "steps": steps,
        "first": first,
        "tries": len(tried),
        "rounds": {name: [tried[i][name] for i in kept] for name in names},
    }


def fastest(run: Callable[[], object], times: int) -> float:
    """Seconds of the fastest run: so many in a row, until other processes did not disturb a row.

    No longer than `PATIENCE`, though. Disturbed runs count, they are only slower.
    """
    seconds, deadline = [], time.perf_counter() + PATIENCE

    def timed():
        begin = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begin)

    run()
    program = Program(timed, lambda: None, lambda: None, lambda: None, {})
    while _measure(program, times)["others"] > QUIET and time.perf_counter() < deadline:
        time.sleep(1)
    return min(seconds)


def disturbance(times: dict[str, dict]) -> float:
    """The largest share of the cores' time that other processes took in a turn of a round."""
    return max(each["others"] for each in times.values())


def apart(times: dict[str, dict]) -> bool:
    """Whether in a turn of a round the cores did not share a cache; older results do not tell."""
    return max(each.get("handover", 1.0) for each in times.values()) > NEAR


def wait_until_near(patience: float) -> float:
    """Waits for the cores to share a cache, so many seconds at most; returns how many it were."""
    begin = time.perf_counter()
    while time.perf_counter() < begin + patience and handover() > NEAR:
        time.sleep(1)
    return time.perf_counter() - begin


def handover() -> float:
    """How many times as long a core works on what another one wrote as on what it wrote itself.

    About 1 where they share a cache. The host of a virtual machine may move its cores apart, for
    seconds at a time: 3 then. XLA's threads hand maps to each other and slow down with that
    (OCNet's module on 64x64 pixels 135 -> 175 ms), PyTorch's work on the same rows throughout.
    With more than two cores 1 too: they have several caches anyway.
    """
    if not hasattr(os, "sched_setaffinity") or len(cores()) != 2:
        return 1.0
    block, (core, last) = np.zeros(2**17, np.float32), sorted(cores())

    def work(core):
        os.sched_setaffinity(0, {core})  # of this thread alone
        begin = time.perf_counter()
        np.add(block, 1, out=block)
        return time.perf_counter() - begin

    def seconds_after(writer, writing_core):
        times = []
        for _ in range(15):
            writer.submit(work, writing_core).result()
            times.append(reader.submit(work, core).result())
        return statistics.median(times)

    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as other:
        return seconds_after(other, last) / seconds_after(reader, core)


def shares(rounds: int) -> list[int]:
    """The rounds of each process."""
    numbers = (len(range(number, rounds, PROCESSES)) for number in range(PROCESSES))
    return [number for number in numbers if number]


def together(found: list[dict]) -> dict:
    """What was found in several processes, as if it had been one."""
    rounds = {
        side: [turn for each in found for turn in each["rounds"][side]]
        for side in found[0]["rounds"]
    }
    return found[0] | {
        "rounds": rounds,
        "processes": len(found),
        "tries": sum(each["tries"] for each in found),
        "load": [found[0]["load"][0], found[-1]["load"][1]],
    }


def _measure(program: Program, steps: int) -> dict[str, float]:
    busy, cpu, begin = _busy_seconds(), time.process_time(), time.perf_counter()
    program.start()
    host = time.perf_counter() - begin
    for _ in range(steps - 1):
        program.start()
    program.wait()
    wall = time.perf_counter() - begin
    cpu = time.process_time() - cpu
    others = max(0.0, _busy_seconds() - busy - cpu) / (wall * len(cores()))
    return {"wall": wall / steps, "cpu": cpu / steps, "host": host, "others": others}


def cores() -> set[int]:
    """Those that this process may use; where the system does not tell, all."""
    if not hasattr(os, "sched_getaffinity"):
        return set(range(os.cpu_count()))
    return os.sched_getaffinity(0)


def _busy_seconds() -> float:
    """How long our cores have worked, for others outside a virtual machine, too.

    Where the system does not tell (only Linux does), the process's own time: nobody disturbs it.
    """
    statistics_of_kernel = Path("/proc/stat")
    if not statistics_of_kernel.exists():
        return time.process_time()
    ours, ticks = {f"cpu{core}" for core in cores()}, 0
    for line in statistics_of_kernel.read_text().splitlines():
        name, *times = line.split()
        if name in ours:
            user, nice, system, _idle, _waiting, irq, softirq, stolen = map(int, times[:8])
            ticks += user + nice + system + irq + softirq + stolen
    return ticks / os.sysconf("SC_CLK_TCK")


def spread(values: list[float]) -> dict[str, float]:
    """The median, and the first and the last decile: four fifths of the values are in between."""
    if len(values) == 1:
        return {"median": values[0], "low": values[0], "high": values[0]}
    low, *_, high = statistics.quantiles(values, n=10, method="inclusive")
    return {"median": statistics.median(values), "low": low, "high": high}


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
