"""How long a chip takes for kernels, by its data sheet.

Williams et al., "Roofline" (2009): each kernel takes as long as its arithmetic or its bytes. Caches
and the launching of kernels are not modelled, and real kernels are slower.
"""

from __future__ import annotations

import dataclasses


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
