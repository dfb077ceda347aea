"""Networks beside PyTorch as Markdown tables: measured, and predicted."""

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

MIB, GIB = 2**20, 2**30
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


def network_tables(measured: dict) -> str:
    """Speed, start and memory of a file that `benchmark.py` wrote, as Markdown."""
    machine, cases = measured["machine"], measured["cases"]
    lines = [
        f"{machine['device']}, {machine['cores']} cores, {machine['dtype']}; best matrix product "
        f"{machine['peak_flops'] / 1e9:,.0f} GFLOP/s. "
        f"{versions_of(machine)}.",
        "",
    ]
    timed = [case for case in cases if "rounds" in case]
    alone = [case for case in cases if "alone" in case]
    lines += table(SPEED, [speed_row(case) for case in timed])
    lines += table(START, [start_row(case) for case in alone])
    lines += table(MEMORY, [memory_row(case) for case in alone])
    lines += [f"{network_name(case)}: {case['error']}\n" for case in cases if "error" in case]
    return "\n".join(lines)


def versions_of(about: dict) -> str:
    """Such as `openseg_jax 0.1.0, jax 0.10.2`."""
    packages = {"openseg_jax": about["version"]} | about["versions"]
    return ", ".join(f"{name} {number}" for name, number in packages.items())


def speed_row(case: dict) -> list[str]:
    """One line of the table of speeds."""
    rounds, peak = case["rounds"], case["peak_flops"]
    seconds = {side: spread([each["wall"] for each in rounds[side]])["median"] for side in rounds}
    batch, flops = case["case"]["batch"], flops_of_step(case)
    compiled = ratio(case, "torch.compile", "wall") if "torch.compile" in rounds else None
    return [
        network_name(case),
        input_shape(case),
        f"{batch / seconds['jax']:.3g}",
        f"{batch / seconds['torch']:.3g}",
        spread_cell(ratio(case, "torch", "wall")),
        spread_cell(compiled),
        spread_cell(ratio(case, "torch", "cpu")),
        f"{flops / 1e9:,.0f}",
        f"{flops / seconds['jax'] / peak:.0%}",
        f"{flops / seconds['torch'] / peak:.0%}",
        rounds_and_load(case),
        others(case),
    ]


def flops_of_step(case: dict) -> float:
    """2 a multiply-accumulate; the backward pass of a training step counts twice the forward."""
    return 2 * case["macs"] * (3 if case["case"]["mode"] == "train" else 1)


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
        return [network_name(case), *cells, "", ""]
    host = spread([each["host"] for each in rounds])["median"]
    step = spread([each["wall"] for each in rounds])["median"]
    return [network_name(case), *cells, f"{1000 * host:.1f}", f"{host / step:.1%}"]


def memory_row(case: dict) -> list[str]:
    """One line of the table of peak memory: of the device, or where it has none the process's."""
    sides = {"jax, cache filled": "", "torch": "", "torch.compile": ""}
    key = "resident" if case["alone"]["torch"]["device_memory"] is None else "device_memory"
    for side in sides:
        if side in case["alone"]:
            sides[side] = f"{case['alone'][side][key] / MIB:,.0f}"
    return [network_name(case), "process" if key == "resident" else "device", *sides.values()]


ROOFLINE = (
    "network",
    "input",
    "TFLOP a step",
    "JAX GB moved",
    "PyTorch GB moved",
    "JAX kernels",
    "PyTorch kernels",
    "JAX ms",
    "PyTorch ms",
    "time, JAX / PyTorch",
    "JAX images/s",
    "share of peak",
    "JAX GiB of memory",
    "PyTorch GiB of memory",
)


def roofline_table(predicted: dict) -> str:
    """The cases of a file that `roofline.py` wrote, as Markdown."""
    chip = predicted["chip"]
    lines = [
        f"{chip['name']}, bfloat16: {chip['flops'] / 1e12:,.0f} TFLOP/s and "
        f"{chip['bandwidth'] / 1e12:,.2f} TB/s by its data sheet. Predicted, not measured. "
        f"{versions_of(predicted)}.",
        "",
    ]
    rows = [roofline_row(case, chip["flops"]) for case in predicted["cases"]]
    return "\n".join(lines + table(ROOFLINE, rows))


def roofline_row(case: dict, peak: float) -> list[str]:
    """One line: what both sides compute and move, and how long that takes."""
    ours, theirs = case["sides"]["jax"], case["sides"]["torch"]
    flops = theirs["flops"]  # ours are more where the gradient of resizing is a product
    return [
        network_name(case),
        input_shape(case),
        f"{flops / 1e12:,.2f}",
        f"{ours['bytes'] / 1e9:,.1f}",
        f"{theirs['bytes'] / 1e9:,.1f}",
        f"{ours['kernels']:,}",
        f"{theirs['kernels']:,}",
        f"{1e3 * ours['seconds']:,.2f}",
        f"{1e3 * theirs['seconds']:,.2f}",
        f"{ours['seconds'] / theirs['seconds']:.2f}",
        f"{case['case']['batch'] / ours['seconds']:,.0f}",
        f"{flops / ours['seconds'] / peak:.0%}",
        f"{ours['memory'] / GIB:,.2f}",
        f"{theirs['memory'] / GIB:,.2f}",
    ]
