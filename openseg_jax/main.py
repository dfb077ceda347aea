"""Trains or evaluates: `python -m openseg_jax.main --config=configs/toy_ocr.py --workdir=W`."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from openseg_jax.errors import UserError

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
    except (flags.Error, UserError, *CONFIG_ERRORS) as error:
        fail(f"{_one_line(error)}\nTry --help, or look at the config file.", argv)


def _one_line(error: Exception) -> str:
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return " ".join(text.replace("\\'", "'").split()).strip("'\"")


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
