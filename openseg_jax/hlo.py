"""What the text of a compiled XLA program says: its collectives and its largest buffers."""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import PurePath
from typing import NamedTuple

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
)
# Instructions that give a name to a buffer of another one, or to an argument.
NO_BUFFER = ("parameter", "tuple", "get-tuple-element", "bitcast", "while", "optimization-barrier")
BITS = {"pred": 8, "bf16": 16, "token": 0}  # others end with their number of bits

INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.-]+ = (?P<type>.*?) (?P<opcode>[a-z][\w-]*)\(")
COMPUTATION = re.compile(r"^(?:ENTRY )?%?(?P<name>[\w.-]+) \(.*\{$")
ARRAY = re.compile(r"(?P<dtype>[a-z]\w*)\[(?P<shape>[\d,]*)\](?:\{(?P<layout>[^}]*)\})?")
CALLED = re.compile(r"(?:calls|to_apply)=%?([\w.-]+)")


class Buffer(NamedTuple):
    """The result of an instruction, on one device."""

    size: int  # bytes, padded as the compiler lays it out
    array: str  # such as f32[2,128,256,19]
    opcode: str
    source: str  # the innermost lines of Python it comes from


def collectives(text: str) -> dict[str, int]:
    """How many of each kind of communication between devices a compiled program has."""
    counts = Counter()
    for line in text.splitlines():
        if match := INSTRUCTION.match(line):
            kind = match["opcode"].removesuffix("-start")  # a pair -start, -done counts once
            counts[kind] += kind in COLLECTIVES
    return {kind: counts[kind] for kind in COLLECTIVES if counts[kind]}


def largest_buffers(text: str, count: int) -> list[Buffer]:
    """The largest results of instructions, one of each shape.

    They need not live at the same time. What a fusion calculates inside has no buffer.
    """
    inside = set(CALLED.findall(text))
    frames, found, skipped = _Frames(text), {}, True
    for line in text.splitlines():
        if header := COMPUTATION.match(line):
            skipped = header["name"] in inside
        match = INSTRUCTION.match(line)
        if skipped or not match or match["opcode"] in NO_BUFFER or "-done" in match["opcode"]:
            continue
        for array in ARRAY.finditer(match["type"]):
            name = f"{array['dtype']}[{array['shape']}]"
            size = _size(**array.groupdict())
            if name not in found or size > found[name].size:
                found[name] = Buffer(size, name, match["opcode"], frames.of(line))
    return sorted(found.values(), reverse=True)[:count]


def _size(dtype: str, shape: str, layout: str | None) -> int:
    """Bytes of an array, with the padding of a TPU's tiles: `{1,0:T(8,128)}`."""
    sides = [int(side) for side in shape.split(",") if side]
    order, _, tiles = (layout or "").partition(":")
    if tile := re.match(r"T\(([\d,]+)\)", tiles):
        minor_first = [int(axis) for axis in order.split(",") if axis]
        lengths = [int(length) for length in tile[1].split(",")]
        for axis, length in zip(minor_first, reversed(lengths), strict=False):
            sides[axis] = -(-sides[axis] // length) * length
    bits = BITS[dtype] if dtype in BITS else int(re.search(r"\d+", dtype)[0])
    return math.prod(sides) * bits // 8


class _Frames:
    """The table at the head of a program that tells which lines of Python made what."""

    def __init__(self, text: str):
        self._files = dict(re.findall(r'^(\d+) "(.*\.py)"$', text, re.MULTILINE))
        self._places = {
            place: (file, line)
            for place, file, line in re.findall(
                r"^(\d+) \{file_name_id=(\d+) .*? line=(\d+)", text, re.MULTILINE
            )
        }
        self._frames = {
            frame: (place, parent)
            for frame, place, parent in re.findall(
                r"^(\d+) \{file_location_id=(\d+)(?: parent_frame_id=(\d+))?", text, re.MULTILINE
            )
        }

    def of(self, line: str, depth: int = 3) -> str:
        """The innermost line of each of `depth` files behind an instruction, innermost first."""
        match = re.search(r"stack_frame_id=(\d+)", line)
        frame, names = match[1] if match else "", {}
        while frame in self._frames and len(names) < depth:
            place, parent = self._frames[frame]
            file, number = self._places.get(place, ("", ""))
            names.setdefault(PurePath(self._files.get(file, "?")).name, number)
            frame = "" if parent == frame else parent
        return " < ".join(f"{file}:{number}" for file, number in names.items())
