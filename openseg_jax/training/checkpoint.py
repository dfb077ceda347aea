"""Checkpoints: every call into Orbax is here.

A checkpoint holds the parameters, batch statistics, optimiser state, step and, if the run keeps
one, the average of its weights under flat dotted names, and its config beside them. Random numbers
and the data position follow from seed and step, so that nothing else is needed to go on bit for
bit.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, SingleDeviceSharding
from orbax.checkpoint import v1 as ocp

from openseg_jax import __version__
from openseg_jax.errors import UserError
from openseg_jax.models import segmenter
from openseg_jax.parallel import REPLICATED

STATE = "state"


def flatten(tree) -> dict[str, jax.Array]:
    """A nested tree as `{"params.backbone.features.0.0.kernel": array, ...}`."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


class Checkpoints:
    """The checkpoints of one workdir: keeps the newest few and the best by mIoU.

    Use as a context manager; leaving it waits for the last write.
    """

    def __init__(self, workdir: Path, keep: int = 2):
        policies = ocp.training.preservation_policies
        best = policies.BestN(get_metric_fn=_miou, n=1, keep_checkpoints_without_metrics=False)
        _remove_unfinished(workdir / "checkpoints")
        try:
            self._checkpointer = ocp.training.Checkpointer(
                (workdir / "checkpoints").resolve(),
                preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(keep), best]),
            )
        except OSError as error:
            raise UserError(f"Cannot use {workdir / 'checkpoints'}: {error}") from error

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind, *exception) -> None:
        try:
            self._checkpointer.close()
        except Exception:
            if kind is None:  # else it repeats what went wrong before
                raise

    @property
    def latest_step(self) -> int | None:
        """The newest complete checkpoint's step."""
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    def config(self, step: int) -> dict:
        """The config the checkpoint was trained with."""
        folder = self._checkpointer.directory / str(step)
        with _readable(folder):
            return self._checkpointer.metadata(step).custom_metadata["config"]

    def save(
        self,
        step: int,
        state: dict,
        config: dict,
        miou: float | None = None,
        certificate: dict | None = None,
    ) -> None:
        """Writes `state`; it may be donated as soon as this returns.

        Args:
            certificate: of a converted checkpoint: where its weights came from.
        """
        metrics = None if miou is None else {"miou": miou}
        about = {"config": config, "version": __version__}
        if certificate:
            about["certificate"] = certificate
        try:
            self._checkpointer.save_checkpointables(
                step, {STATE: flatten(state)}, metrics=metrics, custom_metadata=about, force=True
            )
        except Exception as error:
            # The array library reports a full disk as an error of its own, with this text.
            if "No space left on device" in str(error):
                path = str(self._checkpointer.directory / str(step))
                raise OSError(errno.ENOSPC, "No space left on device", path) from error
            raise

    def restore(self, step: int, like: dict, mesh: jax.sharding.Mesh) -> dict:
        """The state of a step, in the structure of `like`, replicated over `mesh`.

        An average of weights that the checkpoint does not have, as it is of a version that kept
        none, starts from its weights.
        """
        folder = self._checkpointer.directory / str(step)
        with _readable(folder):
            found = shapes(folder)
        if "average" in like and not any(name.startswith("average.") for name in found):
            weights = {name: like[name] for name in like if name != "average"}
            state = self.restore(step, weights, mesh)
            copy = jax.tree.map(jnp.copy, {name: state[name] for name in like["average"]})
            return state | {"average": copy}
        wanted = flatten(like)
        _check_names(wanted, found, str(folder))
        sharding = NamedSharding(mesh, REPLICATED)
        abstract = {
            name: jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype, sharding=sharding)
            for name, leaf in wanted.items()
        }
        with _readable(folder):
            loaded = self._checkpointer.load_checkpointables(step, {STATE: abstract})[STATE]
        return jax.tree.unflatten(jax.tree.structure(like), [loaded[name] for name in wanted])


@contextlib.contextmanager
def _readable(folder):
    """Turns the errors of reading a damaged checkpoint into one that says what to do."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError, FileNotFoundError) as error:
        raise UserError(
            f"The checkpoint {folder} is damaged ({type(error).__name__}: {str(error)[:200]}). "
            "Remove that folder; the run then goes on from the checkpoint before it."
        ) from error


def _remove_unfinished(folder: Path) -> None:
    """Removes what a killed run was writing."""
    if jax.process_index() == 0:
        for leftover in folder.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(leftover)


def _miou(metrics: dict | None) -> float:
    value = (metrics or {}).get("miou")
    return -math.inf if value is None or math.isnan(value) else value


def shapes(folder) -> dict[str, tuple[int, ...]]:
    """Names and shapes in one checkpoint folder, without reading its arrays."""
    return {name: tuple(leaf.shape) for name, leaf in _leaves(folder).items()}


def _leaves(folder) -> dict:
    return ocp.checkpointables_metadata(folder).metadata[STATE]


def _check_names(wanted: dict, found: dict[str, tuple], where: str) -> None:
    """Says how a checkpoint differs from what the model needs, if it does."""
    problems = [f"{name} is missing" for name in wanted if name not in found]
    problems += [f"{name} is not in the model" for name in found if name not in wanted]
    problems += [
        f"{name} is {found[name]}, the model needs {np.shape(leaf)}"
        for name, leaf in wanted.items()
        if name in found and tuple(np.shape(leaf)) != found[name]
    ]
    if problems:
        more = f"\n  and {len(problems) - 6} more" if len(problems) > 6 else ""
        raise UserError(
            f"{where} is the checkpoint of another model:\n  " + "\n  ".join(problems[:6]) + more
        )


def find(path: Path) -> Path:
    """The checkpoint folder meant by `path`: itself, or the best (else newest) of a workdir."""
    if (path / STATE).is_dir():
        return path
    if not path.exists():
        raise UserError(f"{path} does not exist (looked from {Path.cwd()}).")
    if path.is_file():
        raise UserError(
            f"{path} is a file, checkpoints are folders. Convert a PyTorch file first: openseg "
            f"convert --checkpoint {path} --out FOLDER."
        )
    root = path if path.name == "checkpoints" else path / "checkpoints"
    if not root.is_dir():
        raise UserError(
            f"{path} is no checkpoint: there is neither a checkpoint in it (a folder "
            f"{STATE!r}) nor a workdir's folder 'checkpoints'."
        )
    with ocp.training.Checkpointer(root.resolve()) as checkpointer:
        found = list(checkpointer.checkpoints)
        if not found:
            raise UserError(f"{root} holds no complete checkpoint yet.")
        best = max(found, key=lambda each: (_miou(each.metrics), each.step))
        return root / str(best.step)


def load(folder: Path) -> tuple[dict[str, np.ndarray], dict]:
    """Parameters and statistics (flat, `params.…` and `stats.…`), and the config of a checkpoint.

    `folder` is one of `find`. Of a run that averages its weights these are the averages. The
    optimiser's state is not read.
    """
    folder = folder.resolve()
    sharding = SingleDeviceSharding(jax.local_devices()[0])
    context = ocp.Context()
    context.pytree.loading.partial_load = True
    with _readable(folder), context:
        leaves = _leaves(folder)
        prefix = "average." if any(name.startswith("average.") for name in leaves) else ""
        abstract = {
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
            for name, leaf in leaves.items()
            if name.startswith((f"{prefix}params.", f"{prefix}stats."))
        }
        arrays = ocp.load(folder, abstract, checkpointable_name=STATE)
        config = ocp.checkpointables_metadata(folder).custom_metadata["config"]
    return {name.removeprefix(prefix): np.asarray(array) for name, array in arrays.items()}, config


def fill(like: dict, arrays: dict[str, np.ndarray], where: str) -> dict:
    """A nested tree in the structure of `like` from flat arrays; the names must agree."""
    wanted = flatten(like)
    _check_names(wanted, {name: tuple(array.shape) for name, array in arrays.items()}, where)
    return jax.tree.unflatten(jax.tree.structure(like), [arrays[name] for name in wanted])


def fill_network(network: segmenter.Segmenter, arrays: dict[str, np.ndarray], where: str) -> None:
    """Puts the arrays of `load` into a network, in place; the names must agree."""
    params, stats, _ = segmenter.graphs(network)
    filled = fill({"params": params, "stats": stats}, arrays, where)
    nnx.update(network, nnx.State(filled["params"]), nnx.State(filled["stats"]))


def save_config(workdir: Path, config: dict) -> None:
    """Writes `workdir/config.json`, whole or not at all, from process 0."""
    if jax.process_index():
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        path = workdir / "config.json"
        path.with_suffix(".tmp").write_text(json.dumps(config, indent=1) + "\n")
        path.with_suffix(".tmp").replace(path)
    except OSError as error:
        raise UserError(f"Cannot write to --workdir {workdir}: {error}") from error
