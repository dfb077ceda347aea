"""Cells of the tables of results, and a table of them."""

from __future__ import annotations

from benchmarking.measuring import apart, spread


def rounds_and_load(case: dict) -> str:
    """How often was measured, and how many processes wanted to run before and after it."""
    before, after = case["load"]
    processes = f" in {case['processes']}" if "processes" in case else ""
    return f"{len(case['rounds']['jax'])} x {case['steps']}{processes}, {before:.1f} to {after:.1f}"


def others(case: dict) -> str:
    """What other processes took of the cores, rounds run again, rounds with the cores apart."""
    turns = [turn for side in case["rounds"].values() for turn in side]
    again = case["tries"] - len(case["rounds"]["jax"])
    far = sum(apart(dict(enumerate(turns))) for turns in zip(*case["rounds"].values(), strict=True))
    most = f"{max(turn['others'] for turn in turns):.0%}"
    return most + f", {again} again" * bool(again) + f", {far} apart" * bool(far)


def ratio(case: dict, opponent: str, clock: str) -> dict[str, float]:
    """Our time over the opponent's, round by round: median and deciles."""
    pairs = zip(case["rounds"]["jax"], case["rounds"][opponent], strict=True)
    return spread([ours[clock] / theirs[clock] for ours, theirs in pairs])


def network_name(case: dict) -> str:
    """METHOD:BACKBONE MODE."""
    about = case["case"]
    return f"{about['method']}:{about['backbone']} {about['mode']}"


def input_shape(case: dict) -> str:
    """BATCH x HEIGHTxWIDTH."""
    about = case["case"]
    return f"{about['batch']} x {about['size'][0]}x{about['size'][1]}"


def spread_cell(values: dict[str, float] | None) -> str:
    """The median, and in brackets the first and the last decile."""
    if values is None:
        return ""
    return f"**{values['median']:.2f}** ({values['low']:.2f} to {values['high']:.2f})"


def table(header: tuple[str, ...], rows: list[list[str]]) -> list[str]:
    """A Markdown table without the columns that are empty throughout."""
    if not rows:
        return []
    used = [index for index in range(len(header)) if any(row[index] for row in rows)]
    lines = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(line[index] for index in used)} |" for line in lines] + [""]
