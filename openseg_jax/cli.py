"""The `openseg` command: a thin face over the package. Imports are made where they are used."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from openseg_jax import __version__
from openseg_jax.errors import UserError


def main(argv: list[str] | None = None) -> int:
    """Runs `openseg ARGUMENTS`; the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in ("train", "evaluate"):
        from openseg_jax import main as program

        mode = ["--mode=eval"] if argv[0] == "evaluate" else []
        return program.run([f"openseg {argv[0]}", *mode, *argv[1:]])
    arguments = _parser().parse_args(argv)
    try:
        return arguments.run(arguments) or 0
    except UserError as error:
        if arguments.verbose:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="openseg", description="Semantic segmentation in JAX.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, text in (("train", "train a network"), ("evaluate", "score the best checkpoint")):
        commands.add_parser(name, help=f"{text}: --config=FILE --workdir=DIR, as openseg_jax.main")

    predict = commands.add_parser("predict", help="label any images with a trained network")
    predict.add_argument("inputs", nargs="+", metavar="INPUT", help="images, folders or globs")
    predict.add_argument("--checkpoint", required=True, help="a workdir, or one checkpoint in it")
    predict.add_argument("--out", required=True, type=Path, help="folder for the results")
    predict.add_argument("--batch-size", type=int, default=4)
    predict.set_defaults(run=_predict)

    data = commands.add_parser("data", help="build and list data sets")
    actions = data.add_subparsers(required=True, metavar="ACTION")
    build = actions.add_parser("build", help="build a data set from what its provider ships")
    build.add_argument("name")
    build.add_argument("--source", type=Path, help="the folder as downloaded")
    build.add_argument("--out", default="", help="default: $OPENSEG_DATA or ~/openseg_data")
    build.set_defaults(run=_build)
    listing = actions.add_parser("list", help="the data sets we know")
    listing.set_defaults(run=_list)

    report = commands.add_parser("report", help="write report.html of a workdir anew")
    report.add_argument("workdir", type=Path)
    report.set_defaults(run=_report)
    for command in (predict, build, listing, report):
        command.add_argument("--verbose", action="store_true", help="show tracebacks")
    return parser


def _predict(arguments) -> int:
    from openseg_jax.main import prepare_jax

    prepare_jax(arguments.verbose)
    from openseg_jax import predictor

    model = predictor.Predictor.load(arguments.checkpoint)
    return predictor.predict_files(model, arguments.inputs, arguments.out, arguments.batch_size)


def _build(arguments) -> None:
    from openseg_jax.config import data_dir
    from openseg_jax.data import builder, catalog

    folder = builder.build(catalog.get(arguments.name), arguments.source, data_dir(arguments.out))
    print(f"{arguments.name} is in {folder}: {builder.summary(folder)}")


def _list(arguments) -> None:
    from openseg_jax.data import catalog

    for name in catalog.names():
        dataset = catalog.get(name)
        print(f"{name:16} {dataset.num_classes:3} classes  {dataset.title}")


def _report(arguments) -> None:
    from openseg_jax.report_html import write_report

    print(write_report(arguments.workdir))


def entry() -> None:
    """The console script."""
    from openseg_jax.main import use_huge_pages

    use_huge_pages()
    sys.exit(main())


if __name__ == "__main__":
    entry()
