"""The `openseg` command: a thin face over the package. Imports are made where they are used."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from openseg_jax import __version__, cli_data
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
    except (UserError, OSError) as error:
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
    help = "images, videos, folders, globs, or - for a list on the standard input"
    predict.add_argument("inputs", nargs="+", metavar="INPUT", help=help)
    predict.add_argument("--checkpoint", required=True, help="a workdir, or one checkpoint in it")
    predict.add_argument("--out", required=True, type=Path, help="folder for the results")
    predict.add_argument("--batch-size", type=int, default=0, help="default: best for the device")
    predict.add_argument("--scales", help="such as 0.75,1,1.25; their logits are summed")
    predict.add_argument("--flip", action="store_true", help="add the logits of the mirror image")
    predict.add_argument("--window", help="such as 512x1024 (height x width): sliding windows")
    predict.add_argument("--confidence", action="store_true", help="write how sure each pixel is")
    help = "workdir or checkpoint of a SegFix network that refines the boundaries"
    predict.add_argument("--boundary-refine", metavar="SEGFIX", help=help)
    help = "also write the provider's label ids, to a folder or a .zip, as test servers want them"
    predict.add_argument("--submission", type=Path, metavar="PATH", help=help)
    predict.set_defaults(run=_predict)

    compare = commands.add_parser("compare", help="compare two results, class by class")
    compare.add_argument("first", type=Path, metavar="A.json", help="WORKDIR/eval/STEP.json")
    compare.add_argument("second", type=Path, metavar="B.json")
    compare.add_argument("--force", action="store_true", help="even if their protocols are unlike")
    compare.set_defaults(run=_compare)

    explain = commands.add_parser("explain", help="show what the context of a pixel is made of")
    explain.add_argument("image", metavar="IMAGE")
    explain.add_argument("--checkpoint", required=True, help="a workdir, or one checkpoint in it")
    explain.add_argument("--point", default="", help="row,column of the pixel; default: the middle")
    explain.add_argument(
        "--out", type=Path, default=Path("explain.png"), help="default: %(default)s"
    )
    explain.set_defaults(run=_explain)

    segfix = commands.add_parser("segfix", help="refine the boundaries of any label maps")
    segfix.add_argument("labels", type=Path, help="folder of label PNGs, ids of any data set")
    segfix.add_argument("--out", required=True, type=Path, help="folder for the results")
    segfix.add_argument("--checkpoint", help="a SegFix network's workdir; needs --images")
    segfix.add_argument("--images", type=Path, help="folder of the images of the labels")
    segfix.add_argument("--offsets", type=Path, help="folder of .mat or .npy offsets instead")
    segfix.add_argument("--truth", type=Path, help="or true labels: the upper bound")
    segfix.add_argument("--instances", action="store_true", help="Cityscapes' instance results")
    segfix.add_argument("--scale", type=float, help="steps to go; default 2, instances 1")
    segfix.set_defaults(run=_segfix)

    convert = commands.add_parser("convert", help="PyTorch checkpoints to ours, and back")
    help = "a .pth, .pt or .safetensors file; or a workdir or checkpoint of ours"
    convert.add_argument("--checkpoint", required=True, type=Path, help=help)
    help = "the folder to write; or, for the way back, a .pth or .safetensors file"
    convert.add_argument("--out", required=True, type=Path, help=help)
    help = "FILE[:ARGUMENT] of the network, if the file does not say; or its names, as follows"
    convert.add_argument("--config", help=help)
    convert.add_argument("--model", help="the original's name, such as spatial_ocrnet")
    convert.add_argument("--backbone", help="the original's: deepbase_resnet101_dilated8, ...")
    convert.add_argument("--classes", type=int, help="how many")
    convert.add_argument("--dataset", help="whose classes and colours the labels have")
    convert.set_defaults(run=_convert)

    analyze = commands.add_parser("analyze", help="parameters, FLOPs and shapes of a network")
    analyze.add_argument("--config", required=True, help="FILE[:ARGUMENT]")
    analyze.add_argument("--size", default="1024x2048", help="of the image: HEIGHTxWIDTH")
    help = "compile the train and eval steps, without weights or data: memory, collectives, fit"
    analyze.add_argument("--preflight", action="store_true", help=help)
    help = (
        "of --preflight: cpu, gpu, tpu (of this machine, the default), or tpu-v5e:2x4, gpu-a100:8"
    )
    analyze.add_argument("--target", default="", help=help)
    help = "of --preflight: GiB of a device; default: its own, where known"
    analyze.add_argument("--memory", type=float, metavar="GIB", help=help)
    analyze.set_defaults(run=_analyze)

    data = commands.add_parser("data", help="build, check and look at data sets")
    actions = data.add_subparsers(required=True, metavar="ACTION")
    data_commands = cli_data.add_commands(actions)

    report = commands.add_parser("report", help="write report.html of a workdir anew")
    report.add_argument("workdir", type=Path)
    report.set_defaults(run=_report)
    for command in (predict, compare, explain, segfix, convert, analyze, report, *data_commands):
        command.add_argument("--verbose", action="store_true", help="show tracebacks")
    return parser


def _predict(arguments) -> int:
    from openseg_jax.main import prepare_jax

    prepare_jax(arguments.verbose)
    from openseg_jax import prediction

    return prediction.from_arguments(arguments)


def _compare(arguments) -> None:
    from openseg_jax.evaluation import compare

    results = (compare.read(path) for path in (arguments.first, arguments.second))
    print(compare.compare(*results, arguments.force))


def _explain(arguments) -> None:
    from openseg_jax.main import prepare_jax

    prepare_jax(arguments.verbose)
    from openseg_jax import explain

    explain.from_arguments(arguments)


def _segfix(arguments) -> int:
    from openseg_jax.main import prepare_jax

    prepare_jax(arguments.verbose)
    from openseg_jax import refinement

    return refinement.from_arguments(arguments)


def _convert(arguments) -> None:
    from openseg_jax.main import prepare_jax

    prepare_jax(arguments.verbose)
    from openseg_jax import conversion
    from openseg_jax.config import read_config

    names = {name: getattr(arguments, name) for name in ("model", "backbone", "classes", "dataset")}
    given = [f"--{name}" for name, value in names.items() if value is not None]
    if given and (arguments.config or arguments.checkpoint.is_dir()):
        known = "--config says" if arguments.config else "a checkpoint of ours knows"
        raise UserError(f"{known} what the network is: leave out {', '.join(given)}.")
    if arguments.checkpoint.is_dir():
        print(conversion.flax_to_torch(arguments.checkpoint, arguments.out))
        return
    certificate = conversion.torch_to_flax(
        arguments.checkpoint,
        arguments.out,
        model_name=arguments.model,
        backbone=arguments.backbone,
        num_classes=arguments.classes,
        dataset=arguments.dataset,
        config=read_config(arguments.config) if arguments.config else None,
    )
    print(certificate)


def _analyze(arguments) -> int | None:
    from openseg_jax.config import read_config

    try:
        height, width = map(int, arguments.size.split("x"))
        if min(height, width) < 1:
            raise ValueError
    except ValueError as error:
        raise UserError(f"--size {arguments.size}: give HEIGHTxWIDTH, as 1024x2048.") from error
    if arguments.memory is not None and not arguments.memory > 0:
        raise UserError(f"--memory {arguments.memory}: give the GiB of a device.")
    if arguments.preflight:
        from openseg_jax.main import prepare_jax

        prepare_jax(arguments.verbose)
        from openseg_jax import preflight

        return preflight.from_arguments(arguments, (height, width))
    from openseg_jax import analysis

    model = read_config(arguments.config).model
    print(analysis.table(analysis.analyze(model, (height, width)), (height, width)))


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
