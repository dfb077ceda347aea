"""Puts the tables of docs/results/*.json between the marks of docs/performance.md."""

from __future__ import annotations

import json
import re
from pathlib import Path

from benchmarking.measuring import apart, spread

DOCS = Path(__file__).resolve().parent.parent / "docs"
# <!-- benchmark: FILE --> ... <!-- end -->, of a script of that name
MARKED = re.compile(r"(<!-- benchmark: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
NOT_MEASURED = "Not measured yet.\n"
MIB = 2**20


def main() -> None:
    """Writes the page anew."""
    page = DOCS / "performance.md"
    page.write_text(filled(page.read_text(), DOCS / "results"))


def filled(page: str, results: Path) -> str:
    """The page with the tables of the files that its marks name."""

    def replace(found: re.Match) -> str:
        file = results / found[2]
        make = TABLES.get(file.name.split("_")[0], tables)
        text = make(json.loads(file.read_text())) if file.exists() else NOT_MEASURED
        return found[1] + text + found[3]

    return MARKED.sub(replace, page)


def tables(measured: dict) -> str:
    """Speed, start and memory of a file that `benchmark.py` wrote, as Markdown."""
    machine, cases = measured["machine"], measured["cases"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    lines = [
        f"{machine['device']}, {machine['cores']} cores, {machine['dtype']}; best matrix product "
        f"{machine['peak_flops'] / 1e9:,.0f} GFLOP/s. "
        f"openseg_jax {machine['version']}, {versions}.",
        "",
    ]
    timed = [case for case in cases if "rounds" in case]
    alone = [case for case in cases if "alone" in case]
    lines += _table(SPEED, [speed_row(case) for case in timed])
    lines += _table(START, [start_row(case) for case in alone])
    lines += _table(MEMORY, [memory_row(case) for case in alone])
    lines += [f"{_name(case)}: {case['error']}\n" for case in cases if "error" in case]
    return "\n".join(lines)


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
    return "\n".join(lines + _table(ATTENTION, [attention_row(case) for case in cases]))


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
        _spread(ratio(case, "torch", "wall")),
        _spread(ratio(case, "torch", "cpu")),
        f"{least / seconds['jax']:.0%}",
        _rounds(case),
        _others(case),
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
        f"{_name(measured)} on {_input(measured)} takes {step:.2f} s, its "
        f"{sum(each['count'] for each in convolutions)} convolutions alone, each in its faster "
        f"way, {best:.2f} s: **{step / best:.2f}** (medians of {len(measured['steps'])}, load "
        f"{before:.1f} to {after:.1f}).",
        "",
    ]
    rows = sorted(zip(each_best, convolutions, seconds, strict=True), key=lambda row: -row[0])
    return "\n".join(
        lines + _table(CONVOLUTION, [convolution_row(*row, best) for row in rows[:LONGEST]])
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
    lines += _table(DATA, rows)
    operations = [[name, f"{time:.1f}"] for name, time in measured["operations"].items()]
    return "\n".join(lines + _table(("operation on an example", "ms of CPU time"), operations))


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
        "" if name == STRAIGHT else _spread(times),
        f"{measured['bytes'][name] / 1e6:.2f}",
        f"{30 / cpu:.2f}",
    ]


EVALUATION = ("network", "images", "images/s", "one after the other", "times as fast")


def evaluation_table(measured: dict) -> str:
    """The networks of a file that `benchmark_evaluation.py` wrote, as Markdown."""
    machine = measured["machine"]
    lines = [f"{machine['device']}, {machine['cores']} cores.", ""]
    return "\n".join(lines + _table(EVALUATION, [evaluation_row(x) for x in measured["cases"]]))


def evaluation_row(case: dict) -> list[str]:
    """One line: the evaluator beside a loop over the images, turn by turn."""
    ours, loop = case["seconds"]["batched"], case["seconds"]["one_by_one"]
    return [
        case["network"],
        str(case["images"]),
        *(f"{case['images'] / spread(seconds)['median']:.3g}" for seconds in (ours, loop)),
        _spread(spread([there / here for here, there in zip(ours, loop, strict=True)])),
    ]


ROOFLINE = (
    "network",
    "input",
    "TFLOP a step",
    "JAX GB moved",
    "PyTorch GB moved",
    "JAX ms",
    "PyTorch ms",
    "time, JAX / PyTorch",
    "JAX images/s",
    "share of peak",
)


def roofline_table(predicted: dict) -> str:
    """The cases of a file that `roofline.py` wrote, as Markdown."""
    chip = predicted["chip"]
    lines = [
        f"{chip['name']}, bfloat16: {chip['flops'] / 1e12:,.0f} TFLOP/s and "
        f"{chip['bandwidth'] / 1e12:,.2f} TB/s by its data sheet. Predicted, not measured.",
        "",
    ]
    rows = [roofline_row(case, chip["flops"]) for case in predicted["cases"]]
    return "\n".join(lines + _table(ROOFLINE, rows))


def roofline_row(case: dict, peak: float) -> list[str]:
    """One line: what both sides compute and move, and how long that takes."""
    ours, theirs = case["sides"]["jax"], case["sides"]["torch"]
    flops = theirs["flops"]  # ours are more where the gradient of resizing is a product
    return [
        _name(case),
        _input(case),
        f"{flops / 1e12:,.2f}",
        f"{ours['bytes'] / 1e9:,.1f}",
        f"{theirs['bytes'] / 1e9:,.1f}",
        f"{1e3 * ours['seconds']:,.1f}",
        f"{1e3 * theirs['seconds']:,.1f}",
        f"{ours['seconds'] / theirs['seconds']:.2f}",
        f"{case['case']['batch'] / ours['seconds']:,.0f}",
        f"{flops / ours['seconds'] / peak:.0%}",
    ]


TABLES = {
    "attention": attention_table,
    "convolutions": convolution_table,
    "data": data_table,
    "evaluation": evaluation_table,
    "roofline": roofline_table,
}

SPEED = (
    "network",
    "input",
    "JAX images/s",
    "PyTorch images/s",
    "time, JAX / PyTorch",
    "JAX / torch.compile",
    "CPU time, JAX / PyTorch",
    "GFLOP a step",
    "share of peak, JAX",
    "PyTorch",
    "rounds x steps in processes, load",
    "others",
)
START = (
    "network",
    "trace s",
    "lower s",
    "compile s",
    "compile s, cache filled",
    "PyTorch first step s",
    "torch.compile first step s",
    "host ms a step",
    "share of step",
)
MEMORY = ("network", "memory of", "JAX MiB", "PyTorch MiB", "torch.compile MiB")


def speed_row(case: dict) -> list[str]:
    """One line of the table of speeds."""
    rounds, peak = case["rounds"], case["peak_flops"]
    seconds = {side: spread([each["wall"] for each in rounds[side]])["median"] for side in rounds}
    batch, flops = case["case"]["batch"], flops_of_step(case)
    compiled = ratio(case, "torch.compile", "wall") if "torch.compile" in rounds else None
    return [
        _name(case),
        _input(case),
        f"{batch / seconds['jax']:.3g}",
        f"{batch / seconds['torch']:.3g}",
        _spread(ratio(case, "torch", "wall")),
        _spread(compiled),
        _spread(ratio(case, "torch", "cpu")),
        f"{flops / 1e9:,.0f}",
        f"{flops / seconds['jax'] / peak:.0%}",
        f"{flops / seconds['torch'] / peak:.0%}",
        _rounds(case),
        _others(case),
    ]


def _rounds(case: dict) -> str:
    """How often was measured, and how many processes wanted to run before and after it."""
    before, after = case["load"]
    apart = f" in {case['processes']}" if "processes" in case else ""
    return f"{len(case['rounds']['jax'])} x {case['steps']}{apart}, {before:.1f} to {after:.1f}"


def _others(case: dict) -> str:
    """What other processes took of the cores, rounds run again, rounds with the cores apart."""
    turns = [turn for side in case["rounds"].values() for turn in side]
    again = case["tries"] - len(case["rounds"]["jax"])
    far = sum(apart(dict(enumerate(turns))) for turns in zip(*case["rounds"].values(), strict=True))
    most = f"{max(turn['others'] for turn in turns):.0%}"
    return most + f", {again} again" * bool(again) + f", {far} apart" * bool(far)


def flops_of_step(case: dict) -> float:
    """2 a multiply-accumulate; the backward pass of a training step counts twice the forward."""
    return 2 * case["macs"] * (3 if case["case"]["mode"] == "train" else 1)


def ratio(case: dict, opponent: str, clock: str) -> dict[str, float]:
    """Our time over the opponent's, round by round: median and deciles."""
    pairs = zip(case["rounds"]["jax"], case["rounds"][opponent], strict=True)
    return spread([ours[clock] / theirs[clock] for ours, theirs in pairs])


def start_row(case: dict) -> list[str]:
    """One line of the table of start-up times."""
    cold, warm = case["alone"]["jax"], case["alone"]["jax, cache filled"]
    cells = [f"{cold[stage]:.1f}" for stage in ("trace", "lower", "compile")]
    cells.append(f"{warm['compile']:.1f}")
    for side in ("torch", "torch.compile"):
        found = case["alone"].get(side)
        cells.append(f"{found['first_step']:.1f}" if found else "")
    rounds = case.get("rounds", {}).get("jax", [])
    if not rounds:
        return [_name(case), *cells, "", ""]
    host = spread([each["host"] for each in rounds])["median"]
    step = spread([each["wall"] for each in rounds])["median"]
    return [_name(case), *cells, f"{1000 * host:.1f}", f"{host / step:.1%}"]


def memory_row(case: dict) -> list[str]:
    """One line of the table of peak memory: of the device, or where it has none the process's."""
    sides = {"jax, cache filled": "", "torch": "", "torch.compile": ""}
    key = "resident" if case["alone"]["torch"]["device_memory"] is None else "device_memory"
    for side in sides:
        if side in case["alone"]:
            sides[side] = f"{case['alone'][side][key] / MIB:,.0f}"
    return [_name(case), "process" if key == "resident" else "device", *sides.values()]


def _name(case: dict) -> str:
    about = case["case"]
    return f"{about['method']}:{about['backbone']} {about['mode']}"


def _input(case: dict) -> str:
    about = case["case"]
    return f"{about['batch']} x {about['size'][0]}x{about['size'][1]}"


def _spread(values: dict[str, float] | None) -> str:
    if values is None:
        return ""
    return f"**{values['median']:.2f}** ({values['low']:.2f} to {values['high']:.2f})"


def _table(header: tuple[str, ...], rows: list[list[str]]) -> list[str]:
    """A Markdown table without the columns that are empty throughout."""
    if not rows:
        return []
    used = [index for index in range(len(header)) if any(row[index] for row in rows)]
    lines = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(line[index] for index in used)} |" for line in lines] + [""]


if __name__ == "__main__":
    main()
