"""Trains or evaluates: `python -m openseg_jax.main --config=configs/toy_ocr.py --workdir=W`."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from openseg_jax.errors import UserError, did_you_mean

CONFIG_ERRORS = (AttributeError, KeyError, TypeError, ValueError, OSError, ImportError)
CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
FLAGS = flags.FLAGS
CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The config file, with its argument after a colon.", lock_config=True
)
flags.DEFINE_string("workdir", None, "Folder of checkpoints, logs and reports; resumed.")
flags.DEFINE_enum("mode", "train", ["train", "eval"], "Train, or evaluate the best checkpoint.")
flags.DEFINE_bool("extend", False, "Go on with more config.train.steps than the run had.")
flags.DEFINE_bool("verbose", False, "Show tracebacks and library logs.")
flags.DEFINE_bool("distributed", False, "Join the other processes of a Slurm, TPU or K8s job.")
flags.DEFINE_string("coordinator_address", None, "host:port of process 0, if not found by itself.")
flags.DEFINE_integer("num_processes", None, "How many processes there are.")
flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.")


def use_huge_pages() -> None:
    """On Linux, starts this process again with huge memory pages for large arrays.

    XLA:CPU allocates its buffers anew at each step, and glibc, unless told so before a process
    starts, gives them back page by page: without it a training step takes a third longer.
    """
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        os.execv(sys.executable, sys.orig_argv)


def run(argv: list[str]) -> int:
    """Runs the program with these arguments (the first is its name); the exit code."""
    if "--help" in argv:
        print(f"{__doc__}\n\n{FLAGS.module_help('openseg_jax.main') or FLAGS.main_module_help()}")
        return 0
    try:
        app.run(_main, argv=argv, flags_parser=_parse_flags)
    except SystemExit as exit:
        return exit.code if isinstance(exit.code, int) else 0 if exit.code is None else 1
    return 0


def _parse_flags(argv: list[str]) -> list[str]:
    """absl's parser, with one line for the mistakes people make."""
    for argument in argv:
        file = Path(argument.removeprefix("--config=").split(":")[0])
        if argument.startswith("--config=") and not file.is_file():
            fail(f"The config file {file} does not exist (looked from {Path.cwd()}).", argv)
    try:
        return FLAGS(argv, known_only=False)
    except UserError as error:
        fail(str(error), argv)
    except (flags.Error, *CONFIG_ERRORS) as error:
        fail(_unknown_key(argv) or f"{_one_line(error)}\n{WHERE_KEYS_ARE}", argv)


WHERE_KEYS_ARE = "All flags: openseg train --help. All keys of the config: openseg_jax/config.py."


def _unknown_key(argv: list[str]) -> str:
    """What is wrong with the first --config.KEY that there is not; "" if all are known."""
    from openseg_jax.config import default_config

    for argument in argv:
        name, _, _ = argument.removeprefix("--").partition("=")
        if not name.startswith("config."):
            continue
        keys = default_config()
        for part in name.split(".")[1:]:
            known = list(keys) if hasattr(keys, "keys") else []
            if part not in known:
                hint = did_you_mean(part, known) if known else ""
                return f"There is no {name}. {hint}\n{WHERE_KEYS_ARE}"
            keys = keys[part]
    return ""


def _one_line(error: Exception) -> str:
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return " ".join(text.split())


def _main(argv: list[str]) -> None:
    try:
        _run(argv)
    except UserError as error:
        fail(str(error), argv)
    except OSError as error:
        if error.errno not in CANNOT_WRITE:
            raise
        fail(
            f"{error.filename or FLAGS.workdir} could not be written: {error.strerror}. Free some "
            "space or choose another --workdir; the last complete checkpoint is untouched, and "
            "the same command goes on from it.",
            argv,
        )
    except RuntimeError as error:  # of which JAX's own are
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        fail(_out_of_memory(str(error)), argv)
    except KeyboardInterrupt:
        print("Stopped at once. The same command goes on from the last checkpoint.", flush=True)
        os._exit(130)  # XLA's threads do not survive an orderly exit


def _out_of_memory(reason: str) -> str:
    settings = CONFIG.value
    if FLAGS.mode == "eval":
        tried = f"evaluating {settings.eval.batch_size or 'some'} images at once"
        mend = "Set --config.eval.batch_size=1, or --config.eval.window for large images"
    else:
        height, width = settings.augment.crop
        tried = f"a step with {settings.train.batch_size} crops of {height}x{width}"
        mend = (
            "Lower --config.train.batch_size (--config.optimizer.accumulate_steps makes up for it) "
            "or --config.augment.crop, or set --config.model.remat=True"
        )
    return (
        f"The memory does not suffice for {tried}: {reason.splitlines()[0]}\n{mend}. "
        "`openseg analyze --config ... --preflight` says before what fits."
    )


def _run(argv: list[str]) -> None:
    if len(argv) > 1:
        raise UserError(f"Unknown argument {argv[1]!r}: flags start with --.")
    if CONFIG.value is None or not FLAGS.workdir:
        raise UserError("Give --config=configs/NAME.py and --workdir=FOLDER.")
    prepare_jax(FLAGS.verbose)
    from openseg_jax import parallel
    from openseg_jax.training import trainer

    if FLAGS.distributed or FLAGS.coordinator_address:
        parallel.initialize(FLAGS.coordinator_address, FLAGS.num_processes, FLAGS.process_id)
    workdir = Path(FLAGS.workdir).expanduser()
    if FLAGS.mode == "eval":
        trainer.evaluate_only(CONFIG.value, workdir)
    else:
        trainer.train(CONFIG.value, workdir, FLAGS.extend)


def prepare_jax(verbose: bool = False) -> None:
    """Process-wide settings, before JAX is first used: the compilation cache, quiet libraries.

    The libraries log every error they raise, with tracebacks; we say it once, in one message.
    """
    if not verbose:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        logging.set_verbosity(logging.FATAL)
    import jax

    if not jax.config.jax_compilation_cache_dir:
        root = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        jax.config.update("jax_compilation_cache_dir", str(root / "openseg_jax" / "xla"))


def fail(message: str, argv: list[str]) -> None:
    """Prints the message, with the traceback under --verbose, and exits with code 2."""
    if "--verbose" in argv or (FLAGS.is_parsed() and FLAGS.verbose):
        import traceback

        traceback.print_exc()
    print(f"error: {message}", file=sys.stderr, flush=True)
    if "jax" in sys.modules and sys.modules["jax"].distributed.is_initialized():
        os._exit(2)  # an orderly exit would wait for the other processes, and they for this one
    sys.exit(2)


if __name__ == "__main__":
    use_huge_pages()
    sys.exit(run(sys.argv))
