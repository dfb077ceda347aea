"""The devices that a program is compiled for: those of this machine, or others that are not here.

A TPU slice is `tpu-v5e:2x4`, GPUs of one machine are `gpu-a100:8`. Their compilers are Python
packages and need no such device.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from importlib import metadata

import jax
from jax.experimental import topologies

from openseg_jax.errors import UserError

GIB = 2**30
# Of one device as JAX counts them, by its kind.
TPU_MEMORY = {"TPU v4": 32, "TPU v5 lite": 16, "TPU v5": 95, "TPU v6 lite": 32}
GPU_SHARE = 0.75  # of a GPU's memory that JAX takes, unless XLA_PYTHON_CLIENT_MEM_FRACTION is set


INSTALL_GPU_COMPILER = (
    f"pip install jax-cuda12-plugin=={metadata.version('jaxlib')} nvidia-cuda-nvcc-cu12"
)


@dataclasses.dataclass(frozen=True)
class Target:
    """The devices that a program is compiled for; they need not be here."""

    devices: list
    compiler: str
    memory: int | None  # bytes of a device, where known

    @property
    def platform(self) -> str:
        """cpu, gpu or tpu."""
        return self.devices[0].platform


@dataclasses.dataclass(frozen=True)
class Gpu:
    """What XLA:GPU decides by, from NVIDIA's data sheets and its CUDA programming guide.

    Args:
        capability: compute capability.
        processors: streaming multiprocessors.
        cache: MiB of the second level.
        clock: GHz, the highest.
        bandwidth: GB/s of the memory.
        memory: GiB as the driver reports them, which are fewer where error correction takes some.
    """

    name: str
    capability: tuple[int, int]
    processors: int
    cache: int
    clock: float
    bandwidth: int
    memory: int


GPUS = {
    "a100-40": Gpu("NVIDIA A100 40GB", (8, 0), 108, 40, 1.41, 1555, 40),
    "a100": Gpu("NVIDIA A100 80GB", (8, 0), 108, 40, 1.41, 2039, 80),
    "a10": Gpu("NVIDIA A10", (8, 6), 72, 6, 1.695, 600, 22),
    "rtx3090": Gpu("NVIDIA GeForce RTX 3090", (8, 6), 82, 6, 1.695, 936, 24),
    "a6000": Gpu("NVIDIA RTX A6000", (8, 6), 84, 6, 1.8, 768, 48),
    "rtx4090": Gpu("NVIDIA GeForce RTX 4090", (8, 9), 128, 72, 2.52, 1008, 24),
    "l4": Gpu("NVIDIA L4", (8, 9), 58, 48, 2.04, 300, 22),
    "l40s": Gpu("NVIDIA L40S", (8, 9), 142, 96, 2.52, 864, 44),
    "h100": Gpu("NVIDIA H100 SXM", (9, 0), 132, 50, 1.98, 3350, 79),
    "h200": Gpu("NVIDIA H200", (9, 0), 132, 50, 1.98, 4800, 140),
}
# By compute capability: KiB of shared memory and threads of a processor, its lanes of float32. A
# block may have 1 KiB less.
PROCESSORS = {
    (8, 0): (164, 2048, 64),
    (8, 6): (100, 1536, 128),
    (8, 9): (100, 1536, 128),
    (9, 0): (228, 2048, 128),
}


def find_target(name: str) -> Target:
    """The devices of `--target`.

    Args:
        name: "" (those of this machine), cpu, gpu, tpu, or absent ones as tpu-v5e:2x4, gpu-h100,
            gpu-a100:8.
    """
    if name.startswith("tpu-"):
        return _absent_tpu(name)
    if name.startswith("gpu-"):
        return _absent_gpu(name)
    if name not in ("", "cpu", "gpu", "tpu"):
        raise UserError(
            f"--target {name}: use cpu, gpu or tpu for the devices of this machine, a slice of a "
            "TPU, such as tpu-v5e:2x4, or GPUs, such as gpu-a100:8."
        )
    try:
        devices = jax.devices(name or None)
    except RuntimeError as error:
        raise UserError(
            f"--target {name}: JAX finds no {name.upper()} here ({str(error).splitlines()[0]}). "
            "Install JAX for it on a machine that has one; only the compilers work without: "
            "--target tpu-v5e:2x4, --target gpu-a100."
        ) from error
    first = devices[0]
    memory = (first.memory_stats() or {}).get("bytes_limit") if first.platform != "cpu" else None
    compiler = f"XLA:{first.platform.upper()} of jaxlib {metadata.version('jaxlib')}"
    return Target(devices, f"{compiler} for {len(devices)} x {first.device_kind}", memory)


def _absent_tpu(name: str) -> Target:
    topology = name.removeprefix("tpu-")
    # Else libtpu asks the network which TPU this machine belongs to, and serves one process.
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    try:
        version = metadata.version("libtpu")
    except metadata.PackageNotFoundError:
        raise UserError(
            f"--target {name}: this needs the TPU compiler. Install it, of the age of your jaxlib, "
            'with: pip install "jax[tpu]".'
        ) from None
    try:
        devices = topologies.get_topology_desc(topology, platform="tpu").devices
    except Exception as error:  # a bad name, or a libtpu that jaxlib does not go with
        reason = str(error).splitlines()[0][:200]
        raise UserError(
            f"--target {name}: libtpu {version} has no such TPU, or does not go with this jaxlib "
            f"({reason}). Names are such as tpu-v5e:2x4 or tpu-v4:2x2x1."
        ) from error
    kind = devices[0].device_kind
    compiler = f"XLA:TPU of libtpu {version} for {len(devices)} x {kind} ({topology}; none is here)"
    return Target(list(devices), compiler, TPU_MEMORY.get(kind, 0) * GIB or None)


def _absent_gpu(name: str) -> Target:
    kind, _, count = name.removeprefix("gpu-").partition(":")
    if kind not in GPUS or (count and not (count.isdecimal() and int(count))):
        raise UserError(
            f"--target {name}: names are such as gpu-h100, or gpu-a100:8 for eight in a machine; "
            f"known are {', '.join(GPUS)}."
        )
    gpu = GPUS[kind]
    plugins = _installed("jax-cuda13-plugin", "jax-cuda12-plugin")
    if not plugins:
        raise UserError(
            f"--target {name}: this needs the GPU compiler, which works without a GPU. Install it "
            f"with: {INSTALL_GPU_COMPILER}"
        )
    jax.config.update("jax_platforms", "cpu")  # or JAX would look for a GPU first
    try:
        topology = topologies.get_topology_desc(
            kind, platform="cuda", topology=f"1x1x{count or 1}", target_config=description(gpu)
        )
    except Exception as error:  # a plugin that jaxlib does not go with
        raise UserError(
            f"--target {name}: {plugins[0]} does not go with "
            f"jaxlib {metadata.version('jaxlib')} ({str(error).splitlines()[0][:200]}). Install "
            "both of one version."
        ) from error
    devices = list(topology.devices)
    compiler = (
        f"XLA:GPU of {plugins[0]} for {len(devices)} x "
        f"{gpu.name} (none is here; of its {gpu.memory} GiB JAX takes {GPU_SHARE:.0%})"
    )
    return Target(devices, compiler, int(GPU_SHARE * gpu.memory * GIB))


def _installed(*packages: str) -> list[str]:
    """Those of the packages that are here, with their versions."""
    found = []
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found.append(f"{package} {metadata.version(package)}")
    return found


def description(gpu: Gpu) -> str:
    """A GPU in the text format of XLA's GpuTargetConfigProto."""
    shared, threads, lanes = PROCESSORS[gpu.capability]
    major, minor = gpu.capability
    facts = {
        "threads_per_block_limit": 1024,
        "threads_per_warp": 32,
        "shared_memory_per_block": 48 * 1024,
        "shared_memory_per_core": shared * 1024,
        "shared_memory_per_block_optin": (shared - 1) * 1024,
        "threads_per_core_limit": threads,
        "core_count": gpu.processors,
        "fpus_per_core": lanes,
        "block_dim_limit_x": 2**31 - 1,
        "block_dim_limit_y": 2**16 - 1,
        "block_dim_limit_z": 2**16 - 1,
        "memory_bandwidth": gpu.bandwidth * 10**9,
        "l2_cache_size": gpu.cache * 2**20,
        "clock_rate_ghz": gpu.clock,
        "device_memory_size": gpu.memory * GIB,
        "registers_per_core_limit": 2**16,
        "registers_per_block_limit": 2**16,
        "cuda_compute_capability": f"{{ major: {major} minor: {minor} }}",
    }
    device = " ".join(f"{name}: {value}" for name, value in facts.items())
    return (
        f'gpu_device_info {{ {device} }} platform_name: "CUDA" '
        f'dnn_version_info {{ major: 9 minor: 10 }} device_description_str: "{gpu.name}"'
    )
