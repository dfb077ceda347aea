"""Times each convolution of a training step alone, and the step they add up to.

    python scripts/benchmark_convolutions.py
    python scripts/benchmark_convolutions.py --net fcn:hrnet_w48 --out hrnet.json

Forward with both gradients, by the way that our networks take and by XLA's own convolution; of
these the faster counts. What the step takes beyond their sum is everything else in it: batch norm,
activations, resizing, attention's products, the loss and the optimizer. The convolutions are those
of an accelerator; on CPU, ISA and OCR put together or move the ones about their attention.
`scripts/performance_page.py` puts the result into docs/performance.md.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from benchmarking import measuring, parts
from benchmarking.case import Case, Program, config_of
from benchmarking.command_line import RESULTS, net_name, positive, size
from benchmarking.jax_program import forward_jaxpr, jax_program

from openseg_jax.analysis import products
from openseg_jax.compilation import compiler_options
from openseg_jax.errors import UserError
from openseg_jax.main import use_huge_pages
from openseg_jax.models import segmenter
from openseg_jax.models.layers.convolve import convolve, convolve_general


@dataclasses.dataclass(frozen=True)
class Convolution:
    """`x: (n, h, w, c)`, `kernel: (k, k, c / groups, out)` and the geometry."""

    x: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: int
    dilation: int
    groups: int
    padding: int


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--net", type=net_name, default="fcn:resnet101", metavar="METHOD:BACKBONE")
    parser.add_argument("--size", type=size, default=(256, 512), metavar="HEIGHTxWIDTH")
    parser.add_argument("--batch", type=positive, default=1)
    parser.add_argument("--rounds", type=positive, default=7)
    parser.add_argument("--out", type=Path, help="default: docs/results/convolutions_PLATFORM.json")
    options = parser.parse_args()
    use_huge_pages()
    method, _, backbone = options.net.partition(":")
    dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    case = Case(method, backbone, "train", options.size, options.batch, dtype)
    try:
        network = segmenter.build(config_of(case).model, np.random.default_rng(0))
    except UserError as error:
        sys.exit(f"error: {error}")
    found = measure(case, network, options.rounds)
    found = {"machine": parts.machine(dtype), "case": dataclasses.asdict(case), **found}
    out = options.out or RESULTS / f"convolutions_{jax.default_backend()}.json"
    out.write_text(json.dumps(found, indent=1) + "\n")
    print(f"Saved in {out}.")


def measure(case: Case, network: segmenter.Segmenter, rounds: int) -> dict:
    """Seconds of the step and of each different convolution, in turns."""
    counted = collections.Counter(convolutions_of(case))
    step = jax_program(case, network)
    options = compiler_options(type(network.backbone))
    programs = {}
    for number, convolution in enumerate(counted, 1):
        print(f"compiling {number}/{len(counted)}: {convolution}", flush=True)
        programs[convolution] = {
            way: program(convolution, function, case.dtype, options)
            for way, function in (("ours", convolve), ("xla", convolve_general))
        }
    before = measuring.load()
    steps = []
    seconds = {each: {way: [] for way in ways} for each, ways in programs.items()}
    for number in range(rounds):
        print(f"round {number + 1}/{rounds}", flush=True)
        steps.append(time_of(step))
        for convolution, ways in programs.items():
            for way, each in ways.items():
                seconds[convolution][way].append(time_of(each))
    return {
        "steps": steps,
        "convolutions": [
            {**dataclasses.asdict(each), "count": counted[each], "seconds": seconds[each]}
            for each in counted
        ],
        "load": [before, measuring.load()],
    }


def convolutions_of(case: Case):
    """Each convolution of the forward pass; products of maps and matrices are 1x1 ones."""
    for equation, times in products(forward_jaxpr(case)):
        x, kernel = (variable.aval.shape for variable in equation.invars)
        told = equation.params
        if equation.primitive.name == "conv_general_dilated":
            geometry = (
                told["window_strides"][0],
                told["rhs_dilation"][0],
                told["feature_group_count"],
                told["padding"][0][0],
            )
        elif (len(x), len(kernel)) == (4, 2):
            kernel, geometry = (1, 1, *kernel), (1, 1, 1, 0)
        else:
            continue
        yield from [Convolution(x, kernel, *geometry)] * times


def program(convolution: Convolution, function, dtype: str, options) -> Program:
    """Forward and the gradients; without that of an image."""
    names = ("stride", "dilation", "groups", "padding")
    function = partial(function, **{name: getattr(convolution, name) for name in names})

    def forward_and_gradients(x, kernel, gradient):
        y, pull = jax.vjp(function, x, kernel)
        x_gradient, kernel_gradient = pull(gradient)
        return (y, kernel_gradient) if x.shape[-1] == 3 else (y, kernel_gradient, x_gradient)

    rng = np.random.default_rng(0)

    def noise(shape):
        return jnp.asarray(rng.standard_normal(shape, np.float32), dtype)

    x, kernel = noise(convolution.x), noise(convolution.kernel)
    gradient = noise(jax.eval_shape(function, x, kernel).shape)
    step = jax.jit(forward_and_gradients, compiler_options=options)
    last = {}

    def start():
        last["output"] = step(x, kernel, gradient)

    return Program(start, lambda: jax.block_until_ready(last), lambda: None, lambda: None, {})


def time_of(step: Program) -> float:
    """Seconds of the second of two steps."""
    measuring.seconds_of_step(step)
    return measuring.seconds_of_step(step)


if __name__ == "__main__":
    main()
