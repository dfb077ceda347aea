"""What a network costs: parameters, multiply-accumulates, the shape of every stage's output."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from openseg_jax.models import segmenter


@dataclasses.dataclass(frozen=True)
class Part:
    """One half of a network: the backbone or the head."""

    name: str
    parameters: int
    macs: int  # multiply-accumulates of convolutions and matrix products, for one image
    outputs: tuple[tuple[int, int, int], ...]  # (height, width, channels)


def analyze(model, size: tuple[int, int]) -> list[Part]:
    """Backbone, head and the resizing after it, for one image of `size` (height, width).

    Nothing is computed and no weights are allocated: the counts are read from the traced
    program.

    Args:
        model: `config.model`.
    """
    network = segmenter.build(model, rng=None)
    network = nnx.view(network, deterministic=True, use_running_average=True)
    image = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    backbone = _part("backbone", network.backbone, lambda module, x: module(x), image)
    features = jax.eval_shape(
        lambda maps: segmenter.inputs_of_head(network.method, network.backbone, maps),
        [jax.ShapeDtypeStruct((1, *shape), jnp.float32) for shape in backbone.outputs],
    )

    def run_head(head, features):
        told = (jnp.zeros((1, *size), jnp.int32),) if network.needs_labels else ()
        return head(features, None, *told)

    return [backbone, _part("head", network.head, run_head, features)]


def _part(name: str, module: nnx.Module, apply, inputs) -> Part:
    graph, state = nnx.split(module)
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype), nnx.to_pure_dict(state)
    )
    traced, outputs = jax.make_jaxpr(
        lambda weights, x: apply(nnx.merge(graph, weights), x), return_shape=True
    )(abstract, inputs)
    parameters = jax.tree.leaves(nnx.to_pure_dict(nnx.state(module, nnx.Param)))
    return Part(
        name,
        sum(math.prod(np.shape(leaf)) for leaf in parameters),
        count_macs(traced.jaxpr),
        tuple(tuple(output.shape[1:]) for output in jax.tree.leaves(outputs)),
    )


def count_macs(jaxpr) -> int:
    """Multiply-accumulates of the convolutions and matrix products of a traced program."""
    return sum(times * macs_of(equation) for equation, times in products(jaxpr))


def products(jaxpr, times: int = 1) -> Iterator[tuple[Any, int]]:
    """The equations of the convolutions and matrix products, and how often each runs."""
    for equation in jaxpr.eqns:
        name, parameters = equation.primitive.name, equation.params
        if name in ("dot_general", "conv_general_dilated"):
            yield equation, times
        elif name == "cond":
            # One branch runs. Where they are formulations for platforms, the last is the plain one.
            yield from products(parameters["branches"][-1].jaxpr, times)
        else:
            repeats = parameters.get("length", 1) if name == "scan" else 1
            for inner in inner_jaxprs(parameters):
                yield from products(inner, times * repeats)


def macs_of(equation) -> int:
    """Those of a convolution or a matrix product."""
    parameters = equation.params
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = parameters["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return math.prod(equation.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)
    kernel = equation.invars[1].aval.shape
    out_features = parameters["dimension_numbers"].rhs_spec[0]
    each = math.prod(kernel) // kernel[out_features]
    return math.prod(equation.outvars[0].aval.shape) * each


def inner_jaxprs(parameters: dict) -> Iterator[Any]:
    """The programs that an equation calls."""
    for value in parameters.values():
        jaxpr = getattr(value, "jaxpr", value)
        if hasattr(jaxpr, "eqns"):
            yield jaxpr


def table(parts: list[Part], size: tuple[int, int]) -> str:
    """The analysis as text, for the terminal."""
    lines = [f"one image of {size[0]}x{size[1]} (height x width)", ""]
    lines.append(f"{'part':10}{'parameters':>14}{'GMAC':>10}{'GFLOP':>10}  outputs (h x w x c)")
    for part in parts:
        shapes = ", ".join("x".join(map(str, shape)) for shape in part.outputs)
        lines.append(_row(part.name, part.parameters, part.macs) + f"  {shapes}")
    lines.append(_row("total", sum(p.parameters for p in parts), sum(p.macs for p in parts)))
    lines.append(
        "\nGMAC counts multiply-accumulates of convolutions and matrix products; GFLOP = 2 GMAC."
    )
    return "\n".join(lines)


def _row(name: str, parameters: int, macs: int) -> str:
    return f"{name:10}{parameters:14,}{macs / 1e9:10.1f}{2 * macs / 1e9:10.1f}"
