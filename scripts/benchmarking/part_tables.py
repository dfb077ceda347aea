"""Parts of the work as Markdown tables: attention, convolutions, data, evaluation of a data set."""

from __future__ import annotations

from benchmarking.cells import (
    input_shape,
    network_name,
    others,
    ratio,
    rounds_and_load,
    spread_cell,
    table,
)
from benchmarking.measuring import spread

ATTENTION = (
    "module",
    "map",
    "pass",
    "parameters",
    "GFLOP",
    "MB",
    "least ms",
    "JAX ms",
    "PyTorch ms",
    "time, JAX / PyTorch",
    "CPU time, JAX / PyTorch",
    "least / JAX",
    "rounds x steps in processes, load",
    "others",
)
PASSES = {"eval": "forward", "train": "forward, backward"}


def attention_table(measured: dict) -> str:
    """The modules of a file that `benchmark_attention.py` wrote, as Markdown."""
    machine = measured["machine"]
    lines = [
        f"{machine['device']}, {machine['cores']} cores, {machine['dtype']}; best matrix product "
        f"{machine['peak_flops'] / 1e9:,.0f} GFLOP/s, best copy "
        f"{machine['bandwidth'] / 1e9:,.1f} GB/s.",
        "",
    ]
    cases = sorted(measured["cases"], key=lambda case: (case["method"], case["size"], case["mode"]))
    return "\n".join(lines + table(ATTENTION, [attention_row(case) for case in cases]))


def attention_row(case: dict) -> list[str]:
    """One line: what must be done, how fast that could be, and how fast it is."""
    least = max(case["flop"] / case["peak_flops"], case["bytes"] / case["bandwidth"])
    seconds = {
        side: spread([each["wall"] for each in rounds])["median"]
        for side, rounds in case["rounds"].items()
    }
    return [
        case["method"],
        "x".join(map(str, case["size"])),
        PASSES[case["mode"]],
        f"{case['parameters'] / 1e6:.2f} M",
        f"{case['flop'] / 1e9:,.1f}",
        f"{case['bytes'] / 1e6:,.0f}",
        f"{1e3 * least:,.0f}",
        f"{1e3 * seconds['jax']:,.0f}",
        f"{1e3 * seconds['torch']:,.0f}",
        spread_cell(ratio(case, "torch", "wall")),
        spread_cell(ratio(case, "torch", "cpu")),
        f"{least / seconds['jax']:.0%}",
        rounds_and_load(case),
        others(case),
    ]


CONVOLUTION = (
    "kernel",
    "to channels",
    "map",
    "stride",
    "dilation",
    "groups",
    "times",
    "ours ms",
    "XLA's ms",
    "share of the sum",
)
LONGEST = 8  # rows


def convolution_table(measured: dict) -> str:
    """The step beside its convolutions, and the longest of those, as Markdown."""
    machine, convolutions = measured["machine"], measured["convolutions"]
    seconds = [
        {way: spread(times)["median"] for way, times in each["seconds"].items()}
        for each in convolutions
    ]
    each_best = [
        found["count"] * min(ways.values())
        for found, ways in zip(convolutions, seconds, strict=True)
    ]
    step, best = spread(measured["steps"])["median"], sum(each_best)
    before, after = measured["load"]
    lines = [
        f"{machine['device']}, {machine['cores']} cores, {machine['dtype']}. A step of "
        f"{network_name(measured)} on {input_shape(measured)} takes {step:.2f} s, its "
        f"{sum(each['count'] for each in convolutions)} convolutions alone, each in its faster "
        f"way, {best:.2f} s: **{step / best:.2f}** (medians of {len(measured['steps'])}, load "
        f"{before:.1f} to {after:.1f}).",
        "",
    ]
    rows = sorted(zip(each_best, convolutions, seconds, strict=True), key=lambda row: -row[0])
    return "\n".join(
        lines + table(CONVOLUTION, [convolution_row(*row, best) for row in rows[:LONGEST]])
    )


def convolution_row(total: float, found: dict, seconds: dict, best: float) -> list[str]:
    """One line: a convolution with its gradients, and what it has of the sum."""
    size, _, width, out = found["kernel"]
    return [
        f"{size}x{size}, {width}",
        str(out),
        f"{found['x'][1]}x{found['x'][2]}",
        *(str(found[key]) for key in ("stride", "dilation", "groups", "count")),
        *(f"{1e3 * seconds[way]:.1f}" for way in ("ours", "xla")),
        f"{total / best:.0%}",
    ]


STRAIGHT = "straight PIL from PNG"
DATA = (
    "pipeline",
    "images/s, two threads",
    "images/s of CPU time",
    "times the straight one",
    "MB an example",
    "cores for 30 images/s",
)


def data_table(measured: dict) -> str:
    """The pipelines and operations of a file that `benchmark_data.py` wrote, as Markdown."""
    machine, speeds = measured["machine"], measured["speeds"]
    before, after = measured["load"]
    lines = [
        f"{machine['device']}, {machine['cores']} cores; medians of {len(speeds[STRAIGHT])} turns, "
        f"load {before:.1f} to {after:.1f}.",
        "",
    ]
    rows = [data_row(name, measured) for name in speeds]
    lines += table(DATA, rows)
    operations = [[name, f"{time:.1f}"] for name, time in measured["operations"].items()]
    return "\n".join(lines + table(("operation on an example", "ms of CPU time"), operations))


def data_row(name: str, measured: dict) -> list[str]:
    """One line: how fast a pipeline is, on its own and beside the straight one."""
    turns, straight = (measured["speeds"][each] for each in (name, STRAIGHT))
    wall, cpu = (spread([turn[clock] for turn in turns])["median"] for clock in ("wall", "cpu"))
    pairs = zip(turns, straight, strict=True)
    times = spread([one["cpu"] / other["cpu"] for one, other in pairs])
    return [
        name,
        f"{wall:.1f}",
        f"{cpu:.1f}",
        "" if name == STRAIGHT else spread_cell(times),
        f"{measured['bytes'][name] / 1e6:.2f}",
        f"{30 / cpu:.2f}",
    ]


EVALUATION = ("network", "images", "images/s", "one after the other", "times as fast")


def evaluation_table(measured: dict) -> str:
    """The networks of a file that `benchmark_evaluation.py` wrote, as Markdown."""
    machine = measured["machine"]
    lines = [f"{machine['device']}, {machine['cores']} cores.", ""]
    return "\n".join(lines + table(EVALUATION, [evaluation_row(x) for x in measured["cases"]]))


def evaluation_row(case: dict) -> list[str]:
    """One line: the evaluator beside a loop over the images, turn by turn."""
    ours, loop = case["seconds"]["batched"], case["seconds"]["one_by_one"]
    return [
        case["network"],
        str(case["images"]),
        *(f"{case['images'] / spread(seconds)['median']:.3g}" for seconds in (ours, loop)),
        spread_cell(spread([there / here for here, there in zip(ours, loop, strict=True)])),
    ]
