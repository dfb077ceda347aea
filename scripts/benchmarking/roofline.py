"""What a traced program computes and moves, kernel by kernel, and the time that takes by a chip.

Williams et al., "Roofline" (2009). The model of a compiler: everything between convolutions, matrix
products and reductions is fused into what reads it, and views cost nothing. An array is in memory
where a product makes or reads it, or where that moves less than to make it anew for each operation
that reads it. Reductions between two products share what they read, unless one needs the other.
Not modelled: caches, what is fused into a product, fusions with several results.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter

from jax.interpreters import partial_eval

from openseg_jax.analysis import inner_jaxprs, macs_of
from openseg_jax.errors import UserError

PRODUCTS = {"conv_general_dilated", "dot_general"}
REDUCTIONS = {f"reduce_{name}" for name in ("sum", "max", "min", "prod", "and", "or", "xor")}
REDUCTIONS |= {"argmax", "argmin"}
# Kernels of their own, whose operands and results are in memory.
APART = {"sort", "top_k", "cumsum", "scatter", "scatter-add", "scatter_add", "while"}
VIEWS = {
    "copy",
    "optimization_barrier",
    "reshape",
    "sharding_constraint",
    "squeeze",
    "stop_gradient",
    "transpose",
}
CALLS = {"jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call", "checkpoint", "remat2"}


@dataclasses.dataclass(frozen=True)
class Kernel:
    """What a chip runs at once.

    Args:
        flops, bytes: of one run.
        wide: whether its products are of float32.
    """

    kind: str
    flops: int
    bytes: int
    times: int = 1
    wide: bool = False


@dataclasses.dataclass(frozen=True)
class Chip:
    """FLOP a second of dense bfloat16 and of float32 products, bytes a second of the memory."""

    name: str
    flops: float
    wide_flops: float
    bandwidth: float


def seconds(program: list[Kernel], chip: Chip) -> float:
    """One kernel after the other, each as long as its arithmetic or its bytes take."""
    return sum(
        kernel.times
        * max(
            kernel.flops / (chip.wide_flops if kernel.wide else chip.flops),
            kernel.bytes / chip.bandwidth,
        )
        for kernel in program
    )


def total_flops(program: list[Kernel]) -> int:
    """Two a multiply-accumulate of its products."""
    return sum(kernel.times * kernel.flops for kernel in program)


def total_bytes(program: list[Kernel]) -> int:
    """Read and written, by all kernels."""
    return sum(kernel.times * kernel.bytes for kernel in program)


@dataclasses.dataclass(eq=False)
class Array:
    """A value of the program: given, or made by an operation from others."""

    bytes: int
    operation: Operation | None = None
    in_memory: bool = False


@dataclasses.dataclass(eq=False)
class Operation:
    """An equation, after the calls around it are gone."""

    name: str
    flops: int
    wide: bool
    inputs: list[Array]
    outputs: list[Array]
    times: int

    def is_apart(self) -> bool:
        """Whether its operands are in memory."""
        return self.name in PRODUCTS | APART

    def is_reduction(self) -> bool:
        """Whether what it reads may be made on the way."""
        return self.name in REDUCTIONS


def kernels(jaxpr) -> list[Kernel]:
    """The kernels of a traced program, of the last way where platforms have their own.

    Args:
        jaxpr: as `jax.make_jaxpr(function)(...).jaxpr`.
    """
    jaxpr, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars), instantiate=True)
    operations: list[Operation] = []
    given = [_array(variable, in_memory=True) for variable in jaxpr.invars]
    for output in _flatten(jaxpr, given, 1, operations):
        output.in_memory = True
    operations = _needed(operations)
    for operation in operations:
        if operation.is_apart():
            for array in (*operation.inputs, *operation.outputs):
                array.in_memory = True
        elif operation.is_reduction():
            for array in operation.outputs:
                array.in_memory = True
    readers = Counter(array for operation in operations for array in set(operation.inputs))
    for operation in operations:
        for array in operation.outputs:
            array.in_memory |= _is_worth_keeping(array, readers[array])
    return _kernels(operations)


def _array(variable, **about) -> Array:
    shape, dtype = variable.aval.shape, variable.aval.dtype
    return Array(math.prod(shape) * getattr(dtype, "itemsize", 4), **about)  # random keys have none


def _flatten(jaxpr, given: list[Array], times: int, operations: list[Operation]) -> list[Array]:
    """Appends the operations of `jaxpr` without the calls in it; returns its results."""
    arrays = dict(zip(jaxpr.invars, given, strict=True))
    arrays |= {variable: _array(variable, in_memory=True) for variable in jaxpr.constvars}

    def read(atom) -> Array:
        return Array(0) if hasattr(atom, "val") else arrays[atom]  # a literal, or a variable

    for equation in jaxpr.eqns:
        name, inputs = equation.primitive.name, [read(atom) for atom in equation.invars]
        inner = list(inner_jaxprs(equation.params))
        if name == "scan":
            outputs = _loop(equation, inner[0], inputs, times, operations)
        elif name == "cond":
            branch = equation.params["branches"][-1].jaxpr
            outputs = _flatten(branch, inputs[1:], times, operations)
        elif name in CALLS:
            outputs = _flatten(inner[0], inputs, times, operations)
        elif name in VIEWS:
            outputs = inputs
        else:
            operation = _operation(equation, name, inputs, times)
            if inner and not (operation.is_apart() or operation.is_reduction()):
                raise UserError(
                    f"The roofline does not know what {name} moves. Say so in {__name__}: "
                    "whether it is a view, a call, a reduction or a kernel apart."
                )
            operations.append(operation)
            outputs = operation.outputs
        arrays |= dict(zip(equation.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _operation(equation, name: str, inputs: list[Array], times: int) -> Operation:
    product = name in PRODUCTS
    flops = 2 * macs_of(equation) if product else 0
    wide = product and equation.invars[0].aval.dtype.itemsize > 2
    operation = Operation(name, flops, wide, inputs, [], times)
    operation.outputs = [_array(each, operation=operation) for each in equation.outvars]
    return operation


def _loop(equation, body, inputs, times, operations) -> list[Array]:
    """A scan: what a step is given and what it makes is in memory, slice by slice."""
    for array in inputs:
        array.in_memory = True
    step = [_array(variable, in_memory=True) for variable in body.invars]
    for output in _flatten(body, step, times * equation.params["length"], operations):
        output.in_memory = True
    return [_array(variable, in_memory=True) for variable in equation.outvars]


def _needed(operations: list[Operation]) -> list[Operation]:
    """Those that results depend on: a way's gradient is traced beside a forward pass of its own."""
    needed, used = [], set()
    for operation in reversed(operations):
        if any(array.in_memory or array in used for array in operation.outputs):
            needed.append(operation)
            used.update(operation.inputs)
    return needed[::-1]


def _is_worth_keeping(array: Array, readers: int) -> bool:
    """Whether it moves fewer bytes to write an array than to make it anew for each operation.

    Else the gradient of each block of a ResNet would be made of those of all blocks after it.
    """
    anew = sum(source.bytes for source in _sources(array.operation.inputs))
    return readers * anew > anew + (1 + readers) * array.bytes


@dataclasses.dataclass(eq=False)
class _Reductions:
    """Some that read the same, and those between the same products that they need."""

    sources: set[Array]
    results: list[Array]
    times: int
    needs: set[_Reductions]


def _kernels(operations: list[Operation]) -> list[Kernel]:
    """Products with their operands; fused operations with what they read, however far it is."""
    found: list[Kernel] = []
    reductions: list[_Reductions] = []  # since the last product

    def close():
        for each in reductions:
            moved = sum(array.bytes for array in (*each.results, *each.sources))
            found.append(Kernel("reduction", 0, moved, each.times))
        reductions.clear()

    def reduce(operation):
        sources = _sources(operation.inputs)
        needs = {each for each in reductions if not sources.isdisjoint(each.results)}
        needs |= {further for each in needs for further in each.needs}
        for each in reductions:
            alike = sources <= each.sources or each.sources <= sources
            if alike and each.times == operation.times and each not in needs:
                each.sources |= sources
                each.results += operation.outputs
                each.needs |= needs
                return
        reductions.append(_Reductions(sources, operation.outputs[:], operation.times, needs))

    for operation in operations:
        if operation.is_reduction():
            reduce(operation)
            continue
        written = sum(array.bytes for array in operation.outputs)
        if operation.is_apart():
            close()
            read = sum(array.bytes for array in set(operation.inputs))
            moved = read + written, operation.times, operation.wide
            found.append(Kernel(operation.name, operation.flops, *moved))
        elif any(array.in_memory for array in operation.outputs):
            read = sum(array.bytes for array in _sources(operation.inputs))
            found.append(Kernel("fusion", 0, read + written, operation.times))
    close()
    return found


def _sources(arrays: list[Array]) -> set[Array]:
    """What is in memory of that which `arrays` are made of."""
    found, todo, seen = set(), list(arrays), set()
    while todo:
        array = todo.pop()
        if array in seen:
            continue
        seen.add(array)
        if array.in_memory:
            found.add(array)
        elif array.operation:
            todo += array.operation.inputs
    return found
