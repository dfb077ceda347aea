"""Forward passes in evaluation: outputs, intermediate tensors and label maps."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from goldens import Result, Worst, fill, read_json
from goldens.outputs import HEAD_OUTPUTS
from openseg_jax.bridge import build_reference_model, load_state_dict, to_state_dict
from openseg_jax.compilation import FAST_COMPILE
from openseg_jax.data.dataset import IGNORE
from openseg_jax.errors import UserError
from openseg_jax.models import segmenter


def results(root: Path, tolerance: dict, wanted: str) -> Iterator[Result]:
    """One result a case, over all its image sizes."""
    for name, case in read_json(root / "eval_index.json").items():
        if wanted in name:
            try:
                yield _check(root, name, case, tolerance["eval"])
            except UserError as error:
                yield Result(name, float("nan"), str(error))
            jax.clear_caches()  # each case is a program of its own


def _check(root: Path, name: str, case: dict, tolerance: dict) -> Result:
    network = filled_network(root, case)
    params, stats, graphs = segmenter.graphs(network)
    worst = Worst(name)
    for run in case["runs"]:
        images = fill.make_input(run["input_seed"], (1, 3, *run["hw"]))
        labels = ideal_labels(case, run["input_seed"], (1, *run["hw"]))
        names = [key for key in run["tensors"] if not key.startswith("out")]
        found = _run(
            graphs["eval"], case["model_name"], tuple(names), params, stats, images, labels
        )
        stored = np.load(root / run["file"])
        for key, about in run["tensors"].items():
            compare(worst, f"{run['hw']} {key}", found[key], stored[key], about, tolerance)
            if f"{key}.argmax" in stored:
                ours = fill.subsample(np.asarray(found[key]).argmax(1), (99, 25, 33))
                differing = (ours != stored[f"{key}.argmax"]).mean()
                worst.add(f"{key} argmax", differing / tolerance["argmax_mismatch_fraction"])
    return worst.result()


def filled_network(root: Path, case: dict) -> segmenter.Segmenter:
    """The network of a case with its generated weights."""
    activated = case["name"].endswith("__abn")
    network = build_reference_model(
        case["model_name"],
        case["backbone"],
        case["num_classes"],
        norm="inplace_abn" if activated else "bn",
        multi_grid=case["multi_grid"],
        factors=case["factors"],
    )
    manifest, state = root / case["manifest"], {}
    if manifest.is_file():
        entries = [(key, shape) for key, shape, *_ in read_json(manifest)["entries"]]
    else:  # training cases need none: their own keys and shapes are compared later
        entries = [(key, array.shape) for key, array in to_state_dict(network).items()]
    for key, shape in entries:
        state[key] = fill.fill(key, shape, case["salt"])
        if activated and len(shape) == 1 and key.endswith(".weight"):
            state[key] = fill.abn_sign(state[key])
    load_state_dict(network, state)
    return network


def ideal_labels(case: dict, seed: int, shape: tuple[int, int, int]) -> np.ndarray | None:
    """The labels that a network of the `ideal_*` kind is told, else None."""
    if not case["model_name"].startswith("ideal"):
        return None
    labels = fill.make_labels(seed, shape, case["num_classes"])
    return np.where(labels < 0, IGNORE, labels).astype(np.int32)


# Each program runs once: what counts is how fast it compiles.
@partial(jax.jit, static_argnums=(0, 1, 2), compiler_options=FAST_COMPILE)
def _run(graph, model_name, names, params, stats, images, labels) -> dict[str, jax.Array]:
    """Outputs `out0`, … and the named intermediate tensors, all NCHW."""
    network = nnx.merge(graph, params, stats)
    modules = {name: _module(network, model_name, name) for name in names}
    with recording({id(module) for module, _ in modules.values()}) as outputs:
        found = {f"out{i}": y for i, y in enumerate(network(nhwc(images), labels=labels))}
    for name, (module, index) in modules.items():
        output = outputs[id(module)]
        found[name] = output if index is None else output[index]
    return {name: y.transpose(0, 3, 1, 2) for name, y in found.items()}


def nhwc(images) -> jax.Array:
    """NCHW to NHWC."""
    return jnp.asarray(images).transpose(0, 2, 3, 1)


def _module(network, model_name: str, name: str) -> tuple[nnx.Module, int | None]:
    """Our module whose output (or its element of that index) the original's `name` is."""
    if name.startswith("backbone."):
        part, _, index = name.removeprefix("backbone.").partition(".")
        if part.startswith("feat"):
            return network.backbone, int(part.removeprefix("feat"))
        module = getattr(network.backbone, part)
        return (module[-1], int(index)) if index else (module, None)  # a stage is many modules
    module = network.head
    for component in HEAD_OUTPUTS[model_name][name].split("."):
        if component.isdigit() and not isinstance(module, nnx.List):
            return module, int(component)  # the module returns a tuple
        module = module[int(component)] if component.isdigit() else getattr(module, component)
    return module, None


@contextlib.contextmanager
def recording(wanted: set[int]) -> Iterator[dict[int, object]]:
    """Collects what the modules with these ids return while the context is open."""
    outputs: dict[int, object] = {}
    originals = {}

    def recorder(original):
        def __call__(self, *arguments, **options):
            output = original(self, *arguments, **options)
            if id(self) in wanted:
                outputs[id(self)] = output
            return output

        return __call__

    classes = {cls for cls in _subclasses(nnx.Pytree) if "__call__" in vars(cls)}
    for cls in classes:
        originals[cls] = cls.__call__
        cls.__call__ = recorder(cls.__call__)
    try:
        yield outputs
    finally:
        for cls, original in originals.items():
            cls.__call__ = original


def _subclasses(cls: type) -> Iterator[type]:
    for sub in cls.__subclasses__():
        if sub.__module__.startswith("openseg_jax"):
            yield sub
        yield from _subclasses(sub)


def compare(worst: Worst, what: str, ours, stored, about: dict, tolerance: dict) -> None:
    """Compares a full tensor with its stored samples and statistics."""
    ours = np.asarray(ours)
    if list(ours.shape) != about["shape"]:
        worst.add(f"{what}: shape {list(ours.shape)}, not {about['shape']}", np.inf)
        return
    limit = tolerance["max_abs_over_std"] * about["std"]
    worst.close(what, fill.subsample(ours, about["limits"]), stored, limit)
    for name, value in (("mean", ours.mean()), ("std", ours.std()), ("absmax", np.abs(ours).max())):
        worst.close(f"{what} {name}", value, about[name], limit)
