"""What one process of the benchmark does: compare, run one side alone, or look at the machine."""

from __future__ import annotations

import importlib.metadata
import platform
import time
from pathlib import Path

import numpy as np

from benchmarking import measuring
from benchmarking.case import Case, config_of

ALONE_STEPS = 3  # of which the first is not like the others


def compare(case: Case, rounds: int, compiled: bool) -> dict:
    """Both sides with equal weights in one process, in turns."""
    from benchmarking.jax_program import forward_macs, jax_program
    from benchmarking.torch_program import calibrated_weights, torch_program, twin_of
    from openseg_jax.bridge import load_state_dict, to_state_dict
    from openseg_jax.models import segmenter

    network = segmenter.build(config_of(case).model, np.random.default_rng(0))
    weights = calibrated_weights(twin_of(case, to_state_dict(network)), case)
    load_state_dict(network, weights)
    before = measuring.load()
    programs = {
        "jax": jax_program(case, network),
        "torch": torch_program(case, twin_of(case, weights)),
    }
    if compiled:
        programs["torch.compile"] = torch_program(case, twin_of(case, weights), compiled=True)
    times = measuring.interleave(programs, rounds)
    found = {
        **times,
        "load": [before, measuring.load()],
        "macs": forward_macs(case),
        "parameters": sum(
            array.size for key, array in weights.items() if "running" not in key and array.ndim
        ),
    }
    if case.mode == "eval":
        ours, theirs = (programs[name].output() for name in ("jax", "torch"))
        found["largest_difference"] = float(np.abs(ours - theirs).max() / theirs.std())
    return found


def alone(case: Case, side: str) -> dict:
    """One side in a process of its own: seconds of its start, peak memory of its steps."""
    begin = time.perf_counter()
    if side == "jax":
        from benchmarking.jax_program import jax_program
        from openseg_jax.models import segmenter

        network = segmenter.build(config_of(case).model, np.random.default_rng(0))
        program = jax_program(case, network)
    else:
        from benchmarking.torch_program import torch_program, twin_of

        program = torch_program(case, twin_of(case), compiled=side == "torch.compile")
    ready = time.perf_counter() - begin
    with measuring.resident_memory() as resident:
        steps = [measuring.seconds_of_step(program) for _ in range(ALONE_STEPS)]
    return {
        **program.facts,
        "ready": ready,  # imports, weights, compilation
        "first_step": steps[0],
        "step": min(steps[1:]),  # beside that of `compare` it shows whether the sides disturb
        "resident": resident["peak"],
        "device_memory": program.memory(),
    }


def machine(dtype: str) -> dict:
    """The hardware, the versions, and the best matrix product that either framework reaches.

    Args:
        dtype: as `config.dtype`, "auto" included.
    """
    import jax
    import torch

    from openseg_jax.preprocessing import compute_dtype

    device, dtype = jax.devices()[0], compute_dtype(dtype).name
    packages = ("jax", "jaxlib", "flax", "numpy", "torch")
    return {
        "device": device.device_kind if device.platform != "cpu" else processor(),
        "platform": jax.default_backend(),
        "cores": len(measuring.cores()),
        "torch_threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "dtype": dtype,
        "peak_flops": max(_jax_peak(dtype), _torch_peak(dtype)),
    }


def processor() -> str:
    """Its name, where the system tells it."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _product_size(on_cpu: bool) -> int:
    return 2048 if on_cpu else 8192


def _jax_peak(dtype: str) -> float:
    import jax
    import jax.numpy as jnp

    size = _product_size(jax.default_backend() == "cpu")
    matrix = jnp.ones((size, size), dtype)
    product = jax.jit(jnp.matmul)
    return _rate(lambda: product(matrix, matrix).block_until_ready(), size)


def _torch_peak(dtype: str) -> float:
    import torch

    on_cpu = not torch.cuda.is_available()
    size = _product_size(on_cpu)
    matrix = torch.ones(size, size, dtype=getattr(torch, dtype), device="cpu" if on_cpu else "cuda")

    def run():
        torch.mm(matrix, matrix)
        if not on_cpu:
            torch.cuda.synchronize()

    return _rate(run, size)


def _rate(product, size: int) -> float:
    return 2 * size**3 / measuring.fastest(product, times=10)
