"""Whether a training will fit: its steps are compiled, but no weights or data are there.

`openseg analyze --config FILE --preflight [--target gpu-a100:8]`. The compilers of GPUs and TPUs
need none (`targets.py`).
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding

from openseg_jax import config_checks
from openseg_jax.analysis import count_macs
from openseg_jax.config import read_config
from openseg_jax.errors import UserError
from openseg_jax.evaluation import evaluator
from openseg_jax.evaluation.protocol import prepare
from openseg_jax.hlo import Buffer, collectives, largest_buffers
from openseg_jax.models import segmenter
from openseg_jax.models.folding import fold_batch_norm
from openseg_jax.parallel import IMAGES, PER_IMAGE, REPLICATED, batch_specs, make_mesh
from openseg_jax.targets import GIB, INSTALL_GPU_COMPILER, Target, find_target
from openseg_jax.training import optimizer
from openseg_jax.training.step import create_state, make_train_step


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a compiler says of a step; bytes and compiled FLOPs are those of one device."""

    name: str
    macs: int  # of convolutions and matrix products, as traced: on all devices
    seconds: float  # of compiling
    flops: float = math.nan  # where the compiler does not count them
    arguments: int = 0  # bytes of the state and the batch
    temporary: int = 0  # bytes of all that lives only during the step
    peak: int = 0  # bytes, of both and the results
    collectives: dict[str, int] = dataclasses.field(default_factory=dict)
    buffers: tuple[Buffer, ...] = ()
    refused: str = ""  # the compiler's words, where it found no room in its memory


def preflight(config, target: Target, image_size: tuple[int, int]) -> tuple[int, list[Cost]]:
    """Compiles the train and the eval step of a config.

    Args:
        image_size: (height, width) of the images of the evaluation, as stored.

    Returns:
        the number of parameters, and the cost of each step.
    """
    config = for_target(config, target.platform)
    state, graphs = abstract_state(config)
    parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state["params"]))
    train = trace_train_step(config, target.devices, state, graphs["train"])
    evaluation = trace_eval_step(config, target, state, graphs["eval"], image_size)
    costs = [
        _compile(f"train step of {_images(train.args_info[0][1]['image'])}", train),
        _compile(f"eval step of {_images(evaluation.args_info[0][1])}", evaluation),
    ]
    return parameters, costs


def _images(batch) -> str:
    images, height, width = batch.shape[:3]
    return f"{images} images of {height}x{width}"


def for_target(config, platform: str):
    """A copy whose `dtype` is what "auto" will be there; checked as before a training."""
    config_checks.validate(config)
    config = config.copy_and_resolve_references()
    if config.dtype == "auto":
        config.dtype = "float32" if platform == "cpu" else "bfloat16"
    return config


def abstract_state(config) -> tuple[dict, dict]:
    """The state of a training as shapes, and the graphs of `trainer.create_state`."""
    network = segmenter.build(config.model, rng=None)
    plain = config.copy_and_resolve_references()
    plain.train.ema_decay, plain.optimizer.schedule = 0.0, "poly"  # averages would take memory
    state, graphs = create_state(plain, network)
    state = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)
    if optimizer.keeps_average(config):
        state["average"] = {name: state[name] for name in ("params", "stats")}
    return state, graphs


def abstract_batch(config) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of a batch of `data.pipeline.training_batches`, over all processes."""
    images, size = config.train.batch_size, tuple(config.augment.crop)
    batch = {
        "image": jax.ShapeDtypeStruct((images, *size, 3), np.uint8),
        "label": jax.ShapeDtypeStruct((images, *size), np.uint8),
        "box": jax.ShapeDtypeStruct((images, 4), np.int32),
        "brightness": jax.ShapeDtypeStruct((images,), np.int32),
    }
    if config.data.boundaries:
        batch["distance"] = jax.ShapeDtypeStruct((images, *size), np.uint8)
        batch["angle"] = jax.ShapeDtypeStruct((images, *size), np.int16)
    return batch


def trace_train_step(config, devices: list, state: dict, graph) -> jax.stages.Traced:
    """The train step of `trainer`, for its state and batches on these devices."""
    batch = abstract_batch(config)
    rows = config.augment.crop[0]
    mesh = make_mesh(config.mesh, config.train.batch_size, rows, devices)
    return make_train_step(config, graph, mesh, batch_specs(batch)).trace(state, batch)


def trace_eval_step(config, target: Target, state: dict, graph, image_size) -> jax.stages.Traced:
    """The eval step of `evaluator`, for one batch of images on the devices of one process."""
    fold = functools.partial(fold_batch_norm, graph)
    graph, params, stats = jax.eval_shape(fold, state["params"], state["stats"])
    inference = evaluator.make_inference(config, graph)
    devices = [device for device in target.devices if device.process_index == 0]
    mesh = Mesh(np.reshape(devices, (-1, 1)), ("data", "height"), axis_types=(AxisType.Auto,) * 2)
    wanted = config.eval.batch_size or (1 if target.platform == "cpu" else 4)
    images = -(-wanted // len(devices)) * len(devices)
    channels = 4 if segmenter.needs_labels(config.model) else 3
    prepared, size = prepare(inference.protocol, np.zeros((*image_size, 3), np.uint8))

    def on_mesh(shape, dtype, spec) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))

    weights = jax.tree.map(
        lambda leaf: on_mesh(leaf.shape, leaf.dtype, REPLICATED), {"params": params, "stats": stats}
    )
    program = inference.program(size == image_size)
    return program.trace(
        weights,
        on_mesh((images, *prepared.shape[:2], channels), jnp.uint8, IMAGES),
        on_mesh((images, 2), jnp.int32, PER_IMAGE),
    )


def _compile(name: str, traced: jax.stages.Traced) -> Cost:
    macs, start = count_macs(traced.jaxpr.jaxpr), time.perf_counter()
    try:
        compiled = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if "libdevice" in str(error):
            raise UserError(
                "XLA:GPU needs a file of the CUDA toolkit, libdevice, which is not here. It comes "
                f"with: {INSTALL_GPU_COMPILER}"
            ) from error
        refused = str(error).strip().splitlines()[0]
        if "RESOURCE_EXHAUSTED" not in refused:
            raise UserError(
                f"The compiler fails at the {name}: {refused[:300]} That is no fault of the "
                "config; another release of jaxlib and its plugin may compile it."
            ) from error
        return Cost(name, macs, time.perf_counter() - start, refused=refused)
    seconds = time.perf_counter() - start
    memory, text = compiled.memory_analysis(), compiled.as_text()
    arguments = memory.argument_size_in_bytes
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return Cost(
        name,
        macs,
        seconds,
        flops=(compiled.cost_analysis() or {}).get("flops", math.nan),
        arguments=arguments,
        temporary=memory.temp_size_in_bytes,
        peak=arguments + results + memory.temp_size_in_bytes + memory.generated_code_size_in_bytes,
        collectives=collectives(text),
        buffers=tuple(largest_buffers(text, 5)),
    )


def fits(cost: Cost, memory: int) -> bool:
    """Whether a step runs in so many bytes of memory a device."""
    return not cost.refused and cost.peak <= memory


def table(parameters: int, costs: list[Cost], target: Target, memory: int | None) -> str:
    """The preflight as text, for the terminal."""
    lines = [f"compiled by {target.compiler}"]
    if target.platform == "cpu":
        lines.append("memory on CPU is an estimate: the true peak is higher, as XLA undercounts it")
    if target.platform == "gpu":
        lines.append("without what cuDNN's convolutions work in, which they choose at run time")
    lines.append(f"parameters: {parameters:,}")
    for cost in costs:
        lines += ["", *_describe(cost)]
        if memory:
            verdict = "fits into" if fits(cost, memory) else "DOES NOT FIT into"
            lines.append(f"  {verdict} {memory / GIB:.1f} GiB a device")
    if not memory:
        lines += ["", "Whether it fits: give --memory, the GiB of a device."]
    return "\n".join(lines)


def _describe(cost: Cost) -> list[str]:
    whole = f"  {2 * cost.macs / 1e9:,.1f} GFLOP in convolutions and matrix products, all devices"
    lines = [f"{cost.name}, compiled in {cost.seconds:.0f} s", whole]
    if cost.refused:
        return [*lines, f"  the compiler found no room: {cost.refused}"]
    kinds = ", ".join(f"{count} {kind}" for kind, count in cost.collectives.items())
    if not math.isnan(cost.flops):
        counted = f"{cost.flops / 1e9:,.1f} GFLOP a device by the compiler's count"
        lines.append(f"  {counted}, loops counted once")
    lines += [
        f"  peak memory a device {cost.peak / GIB:.2f} GiB: arguments {cost.arguments / GIB:.2f}, "
        f"temporary {cost.temporary / GIB:.2f}, rest results and program",
        f"  collectives: {kinds or 'none'}",
        "  largest buffers, MiB a device:",
    ]
    return lines + [
        f"  {buffer.size / 2**20:10.1f}  {buffer.array} {buffer.opcode}  {buffer.source}"
        for buffer in cost.buffers
    ]


def from_arguments(arguments, image_size: tuple[int, int]) -> int:
    """`openseg analyze --preflight`; exit code 1 where the steps do not fit."""
    config = read_config(arguments.config)
    target = find_target(arguments.target)
    memory = int(arguments.memory * GIB) if arguments.memory else target.memory
    parameters, costs = preflight(config, target, image_size)
    print(table(parameters, costs, target, memory))
    return int(bool(memory) and not all(fits(cost, memory) for cost in costs))
