"""Devices: the mesh, how arrays lie on it, and several processes.

One mesh `("data", "height")` over all devices. Parameters are replicated; batches are sharded
over images ("data") and, for images too large for one device, over rows ("height"): XLA
exchanges the halos of the convolutions. Batch norm over the global batch follows from `jit`.
"""

from __future__ import annotations

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from openseg_jax.errors import UserError

REPLICATED = PartitionSpec()
IMAGES = PartitionSpec("data", "height")  # (n, h, ...)
PER_IMAGE = PartitionSpec("data")  # (n, ...)


def initialize(coordinator_address: str | None, num_processes: int | None, process_id: int | None):
    """Joins this process to the others; without arguments JAX asks Slurm, the TPU pod or K8s."""
    if (jax.config.jax_platforms or "").startswith("cpu"):
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(coordinator_address, num_processes, process_id)
    except ValueError as error:
        reason = str(error).rstrip(".")
        raise UserError(
            f"The other processes were not found ({reason}). Outside of a Slurm, TPU pod or "
            "Kubernetes job give --coordinator_address=HOST:PORT, --num_processes and "
            "--process_id; for one process leave --distributed out."
        ) from error


def make_mesh(mesh, batch_size: int, rows: int, devices: list | None = None) -> Mesh:
    """The mesh of `config.mesh`, checked against the devices and the shape of a batch.

    Args:
        batch_size: images of a global batch.
        rows: height of its images.
        devices: all by default.
    """
    height = mesh.height
    if devices is None and jax.local_device_count() % height:
        raise UserError(
            f"config.mesh.height is {height}: it must divide the {jax.local_device_count()} "
            "devices of each process, as each process loads whole images. (On a CPU "
            "JAX_NUM_CPU_DEVICES=2 makes two devices.)"
        )
    devices = devices or jax.devices()
    data = len(devices) // height if mesh.data == -1 else mesh.data
    if data * height != len(devices):
        raise UserError(
            f"config.mesh asks for data={mesh.data} x height={height}, but there are "
            f"{len(devices)} devices. Choose factors of that number (data=-1 fills up)."
        )
    if batch_size % data:
        raise UserError(
            f"A batch of {batch_size} images cannot be divided over {data} groups of devices. "
            f"Make train.batch_size a multiple of {data}, or use fewer devices "
            "(config.mesh, CUDA_VISIBLE_DEVICES, JAX_NUM_CPU_DEVICES)."
        )
    if rows % height:
        raise UserError(
            f"config.augment.crop is {rows} rows high, which config.mesh.height={height} does not "
            "divide. Change one of them."
        )
    axis_types = (AxisType.Auto, AxisType.Auto)
    return jax.make_mesh((data, height), ("data", "height"), axis_types, devices=devices)


def replicate(tree, mesh: Mesh):
    """Puts every leaf on all devices of the mesh; every process must hold the same values."""
    sharding = NamedSharding(mesh, REPLICATED)

    def put(leaf):
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(put, tree)


def shard_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's part of a batch -> arrays of the global batch, sharded over the mesh."""
    specs = batch_specs(batch)
    return {
        name: jax.make_array_from_process_local_data(NamedSharding(mesh, specs[name]), array)
        for name, array in batch.items()
    }


def batch_specs(batch: dict) -> dict[str, PartitionSpec]:
    """How each array of a batch lies on the mesh: images and labels also over rows."""
    return {name: IMAGES if array.ndim >= 3 else PER_IMAGE for name, array in batch.items()}


def sum_over_processes(array: np.ndarray) -> np.ndarray:
    """The sum of each process's array, the same on all."""
    if jax.process_count() == 1:
        return array
    # Counts may exceed 32 bits, which JAX would cut: send them as two halves.
    halves = np.stack([array >> 32, array & 0xFFFFFFFF]).astype(np.uint32)
    high, low = multihost_utils.process_allgather(halves).astype(np.int64).sum(0)
    return (high << 32) + low
