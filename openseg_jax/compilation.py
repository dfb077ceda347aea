"""What to tell the compiler about a network."""

from __future__ import annotations

import jax

# XLA:CPU's default copies chains of residual sums into every user of them. Without that a training
# step runs 2x faster on HRNet and 3x on ResNet-101, and HRNet compiles 5x faster. On MobileNetV2,
# of few sums and much between its convolutions, the default is 1.4x faster at batch 8.
FAST_COMPILE = {"xla_cpu_opt_preset": "CPU_OPT_PRESET_FAST_COMPILE"}


def compiler_options(backbone: type) -> dict[str, str] | None:
    """Options for `jax.jit` of a program with a network, by the class of its backbone."""
    on_cpu = jax.default_backend() == "cpu"
    return FAST_COMPILE if on_cpu and not getattr(backbone, "depthwise", False) else None
