"""The kernels of our step as XLA compiles it for a GPU, which need not be here."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from benchmarking.roofline import Kernel
from openseg_jax.errors import UserError
from openseg_jax.hlo import ARRAY, BITS, COMPUTATION, NO_BUFFER

INSTRUCTION = re.compile(
    r"^\s+(?:ROOT )?%(?P<name>[\w.-]+) = (?P<type>.*?) (?P<opcode>[a-z][\w-]*)\((?P<rest>.*)$"
)
# Elementwise, and others whose arithmetic is none of products.
WITHOUT_PRODUCTS = set(
    "abs add all-reduce all-gather and broadcast clamp compare concatenate convert copy divide "
    "dynamic-slice dynamic-update-slice exponential gather log maximum minimum multiply negate not "
    "or pad power reduce reduce-window reverse rng-bit-generator rsqrt scatter select sign slice "
    "sort sqrt subtract tanh transpose xor".split()
)
NO_KERNEL = {*NO_BUFFER, "constant", "after-all", "partition-id", "replica-id", "iota"}
# Where cuDNN's kernels have the forward convolution's kernel and output: which operand, or -1, the
# result.
CONVOLUTIONS = {
    "__cudnn$convForward": (1, -1),
    "__cudnn$convBiasActivationForward": (1, -1),
    "__cudnn$convBackwardInput": (1, 0),
    "__cudnn$convBackwardFilter": (-1, 1),
}


class Instruction(NamedTuple):
    """A line of a compiled program."""

    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]
    line: str

    def attribute(self, name: str) -> str:
        """Such as the name of the computation that it `calls`; "" where it has none."""
        match = re.search(rf'\b{name}="?%?([^,"}}\s]+)', self.line)
        return match[1] if match else ""


def kernels(text: str) -> list[Kernel]:
    """The kernels of `compiled.as_text()`, those of loops as often as they run."""
    program, entry = _parse(text)
    return list(_kernels(program, entry, 1))


def _parse(text: str) -> tuple[dict[str, dict[str, Instruction]], str]:
    """The instructions of each computation by their names; the name of the entry."""
    program, entry, current = {}, "", {}
    for line in text.splitlines():
        if header := COMPUTATION.match(line):
            current = program[header["name"]] = {}
            entry = header["name"] if line.startswith("ENTRY") else entry
        elif match := INSTRUCTION.match(line):
            # Operands come first; what is called has its names after the parenthesis.
            operands = tuple(re.findall(r"%([\w.-]+)", match["rest"].partition(")")[0]))
            instruction = Instruction(match["name"], match["type"], match["opcode"], operands, line)
            current[instruction.name] = instruction
    return program, entry


def _kernels(program: dict, computation: str, times: int) -> Iterator[Kernel]:
    within = program[computation]
    for each in within.values():
        if each.opcode == "while":
            turns = re.search(r'"known_trip_count":\{"n":"(\d+)"', each.line)
            if not turns:
                raise _unknown(each, "how often it runs")
            yield from _kernels(program, each.attribute("body"), times * int(turns[1]))
        elif each.opcode == "call":
            yield from _kernels(program, each.attribute("to_apply"), times)
        elif each.opcode not in NO_KERNEL:
            yield _kernel(program, within, each, times)


def _kernel(program: dict, within: dict, each: Instruction, times: int) -> Kernel:
    operands = [within[name] for name in each.operands]
    if each.opcode == "fusion":
        body = program[each.attribute("calls")]
        flops, wide = _flops_of_products(body)
        return Kernel("fusion", flops, _bytes_of_fusion(body, each, operands), times, wide)
    read = sum(_bytes(operand.type) for operand in {x.name: x for x in operands}.values())
    kind = each.attribute("custom_call_target") or each.opcode
    moved = read + _bytes(each.type)
    if kind in WITHOUT_PRODUCTS:
        return Kernel(kind, 0, moved, times)
    if kind not in CONVOLUTIONS:
        raise _unknown(each, "what it computes and moves")
    arrays = [*(_shape(operand.type) for operand in operands), _shape(each.type)]
    weights, output = (arrays[index] for index in CONVOLUTIONS[kind])
    labels = each.attribute("dim_labels").partition("_")[2].partition("->")[0]
    flops = 2 * math.prod(output) * math.prod(weights) // weights[labels.index("o")]
    return Kernel(kind, flops, moved, times, wide=operands[0].type.startswith("f32"))


def _unknown(each: Instruction, what: str) -> UserError:
    return UserError(
        f"The roofline does not know of this instruction {what}; teach it in {__name__}: "
        f"{each.line.strip()[:200]}"
    )


def _flops_of_products(body: dict) -> tuple[int, bool]:
    """Of the matrix products in a fusion, and whether one of them is of float32."""
    flops, wide = 0, False
    for each in body.values():
        if each.opcode in ("convolution", "custom-call", "fusion"):
            raise _unknown(each, "what it computes within a fusion")
        if each.opcode == "dot":
            left = body[each.operands[0]].type
            axes = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", each.line)[1].split(",")
            contracted = math.prod(_shape(left)[int(axis)] for axis in axes if axis)
            flops += 2 * math.prod(_shape(each.type)) * contracted
            wide |= left.startswith("f32")
    return flops, wide


def _bytes_of_fusion(body: dict, fusion: Instruction, operands: list[Instruction]) -> int:
    """What it reads and writes: of arrays that it takes slices of, or writes slices into, those."""
    moved, seen, views = _bytes(fusion.type), set(), {}
    for each in body.values():
        if each.opcode == "bitcast":
            views[each.name] = views.get(each.operands[0], each.operands[0])
    sources = {  # of each instruction, with views of a parameter as that
        each: [views.get(name, name) for name in each.operands]
        for each in body.values()
        if each.opcode != "bitcast"
    }
    parameters = {
        int(each.line.partition("parameter(")[2].partition(")")[0]): each.name
        for each in body.values()
        if each.opcode == "parameter"
    }
    for number, operand in enumerate(operands):
        name, whole = parameters[number], _bytes(operand.type)
        users = [each for each in sources if name in sources[each]]
        written = [  # in place
            body[each.operands[1]]
            for each in users
            if each.opcode == "dynamic-update-slice" and sources[each][0] == name
        ]
        if written:
            moved += sum(_bytes(update.type) for update in written) - whole
        elif users and all(each.opcode == "dynamic-slice" for each in users):
            moved += min(whole, sum(_bytes(each.type) for each in users))
        elif operand.name not in seen:
            moved += whole
        seen.add(operand.name)
    return moved


def _shape(type_: str) -> list[int]:
    """Of the first array in a type."""
    return [int(side) for side in ARRAY.search(type_)["shape"].split(",") if side]


def _bytes(type_: str) -> int:
    """Of all arrays in a type, as `(bf16[8,64]{1,0}, u8[0]{0})`."""
    total = 0
    for array in ARRAY.finditer(type_):
        kind, sides = array["dtype"], [int(side) for side in array["shape"].split(",") if side]
        bits = BITS[kind] if kind in BITS else int(re.search(r"\d+", kind)[0])
        total += math.prod(sides) * bits // 8
    return total
