"""Rounds of a benchmark: turns of both sides, run again where the machine was not its own."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

from benchmarking import cells, measuring  # noqa: E402
from benchmarking.case import Program  # noqa: E402


def fake_program(name, calls):
    def nothing():
        return None

    return Program(lambda: calls.append(name), lambda: calls.append(f"{name} done"), nothing, 0, {})


real_handover = measuring.handover


@pytest.fixture(autouse=True)
def near_cores(monkeypatch):
    """Where this machine's cores are must not decide how often something is measured here."""
    monkeypatch.setattr(measuring, "handover", lambda: 1.0)


def test_sides_take_turns_and_each_is_first_equally_often(monkeypatch):
    monkeypatch.setattr(measuring, "PAUSE", 0)
    monkeypatch.setattr(measuring, "MOST_STEPS", 2)
    monkeypatch.setattr(measuring, "QUIET", float("inf"))  # other tests may run beside this one
    calls = []
    programs = {name: fake_program(name, calls) for name in ("jax", "torch")}
    found = measuring.interleave(programs, rounds=2)
    assert found["steps"] == 2
    one, other = ([name, f"{name} done", name, name, f"{name} done"] for name in ("jax", "torch"))
    assert calls[8:] == one + other + other + one  # after two single steps of each
    for turns in found["rounds"].values():
        assert [set(each) for each in turns] == [{"wall", "cpu", "host", "others", "handover"}] * 2


@pytest.mark.parametrize(
    "others,tries,kept",
    [
        ([0.3, 0, 0, 0, 0, 0.5, 0, 0.02], 4, [1, 3]),  # a disturbed turn spoils its round
        ([0.0, 0, 0.05, 0.01], 2, [0, 1]),
        ([0.9, 0, 0.2, 0, 0.8, 0, 0.3, 0, 0.5, 0, 0.6, 0], 6, [1, 3]),  # quiet never comes
    ],
)
def test_disturbed_rounds_are_run_again(others, tries, kept, monkeypatch):
    monkeypatch.setattr(measuring, "PAUSE", 0)
    programs, number = {name: fake_program(name, []) for name in ("jax", "torch")}, iter(range(99))
    shares = iter(others)
    monkeypatch.setattr(
        measuring, "_measure", lambda *_: {"others": next(shares), "round": next(number) // 2}
    )
    found = measuring.interleave(programs, rounds=2)
    assert found["tries"] == tries
    for turns in found["rounds"].values():
        assert [turn["round"] for turn in turns] == kept


def test_rounds_with_the_cores_apart_are_run_again_and_counted_where_that_does_not_end(monkeypatch):
    monkeypatch.setattr(measuring, "PAUSE", 0)
    monkeypatch.setattr(measuring, "wait_until_near", lambda _: 0)  # it asks for the handover, too
    programs = {name: fake_program(name, []) for name in ("jax", "torch")}
    times = {"others": 0.0, "wall": 1.0}
    monkeypatch.setattr(measuring, "_measure", lambda *_: dict(times))
    for apart, tries, shown in (
        ([3, 1, 1, 1, 1, 3, 1, 1], 4, "0%, 2 again"),
        ([1, 1] + [3] * 10, 6, "0%, 4 again, 1 apart"),
    ):
        handovers = iter(apart)
        monkeypatch.setattr(measuring, "handover", lambda times=handovers: next(times))
        found = measuring.interleave(programs, rounds=2)
        assert found["tries"] == tries
        assert cells.others(found) == shown


def test_a_round_waits_for_the_cores_to_share_a_cache(monkeypatch):
    handovers, waited = iter([3, 4, 1]), []
    monkeypatch.setattr(measuring, "handover", lambda: next(handovers))
    monkeypatch.setattr(measuring.time, "sleep", waited.append)
    measuring.wait_until_near(60)
    assert len(waited) == 2


def test_rounds_wait_no_longer_than_they_have_patience_for_in_all(monkeypatch):
    clock, waited = [0.0], []

    def sleep(seconds):
        clock[0] += seconds
        waited.append(seconds)

    monkeypatch.setattr(measuring, "PAUSE", 0)
    monkeypatch.setattr(measuring, "handover", lambda: 3.0)
    monkeypatch.setattr(measuring.time, "sleep", sleep)
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(measuring, "seconds_of_step", lambda _: 1.0)
    monkeypatch.setattr(measuring, "_measure", lambda *_: {"others": 0.0})
    measuring.interleave({"jax": None, "torch": None}, rounds=15)
    assert sum(waited) == measuring.PATIENCE


@pytest.mark.parametrize(
    "others,durations,fastest",
    [
        ([0.4, 0.01], [9, 3, 3, 2, 1], 1),  # the first run does not count; undisturbed at last
        ([0.01], [1, 3, 2], 2),
        ([0.4, 0.4], [9, 3, 60, 70, 4], 3),  # patience ends
    ],
)
def test_the_fastest_run_is_looked_for_while_other_processes_disturb(
    others, durations, fastest, monkeypatch
):
    clock, shares, left = [0.0], iter(others), iter(durations)

    def run():
        clock[0] += next(left)

    def measure(program, steps):
        for _ in range(steps):
            program.start()
        return {"others": next(shares)}

    monkeypatch.setattr(measuring.time, "sleep", lambda _: None)
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(measuring, "_measure", measure)
    assert measuring.fastest(run, times=2) == fastest
    assert next(left, None) is None


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux binds threads")
def test_measuring_the_handover_leaves_the_process_its_cores():
    before = os.sched_getaffinity(0)
    assert real_handover() > 0
    assert os.sched_getaffinity(0) == before


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells")
def test_what_another_process_takes_of_the_cores_is_seen():
    program = Program(lambda: time.sleep(0.5), lambda: None, lambda: None, lambda: None, {})
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.5)  # until it has started
        beside = measuring._measure(program, 1)["others"]
    finally:
        other.kill()
        other.wait()
    assert beside > 0.4 / len(os.sched_getaffinity(0))
