"""`openseg data ...`: building, checking and looking at data sets. Imports where they are used."""

from __future__ import annotations

import argparse
from pathlib import Path

from openseg_jax.errors import UserError

CONFIG = '''"""OCR on the data set {name}: change what you like. Written by `openseg data init`.

    openseg train --config={file} --workdir=runs/{name}
"""

from openseg_jax.config import default_config
from openseg_jax.data.folder import configure


def get_config(backbone="mobilenet_v2"):
    # Classes, colours, class weights and crop are those of the data set as it was built.
    config = configure(default_config(), "{name}")
    config.model.update(
        backbone=backbone, output_stride=16, channels=256, key_channels=128, aux_channels=128
    )
    config.optimizer.update(learning_rate=0.01, head_lr_multiplier=5.0)
    config.train.update(steps=4000, batch_size=8, eval_every=500, checkpoint_every=500)
    return config
'''


def add_commands(actions) -> list[argparse.ArgumentParser]:
    """Adds the actions of `openseg data`; returns their parsers."""
    build = actions.add_parser("build", help="build a data set from what its provider ships")
    build.add_argument("name", help="of the catalogue, or `folder` for your own images and masks")
    build.add_argument("--source", type=Path, help="folder or archive as downloaded")
    build.add_argument("--name", dest="own_name", default="", help="of your own data set")
    build.add_argument("--out", default="", help="default: $OPENSEG_DATA or ~/openseg_data")
    build.add_argument(
        "--reencode",
        default="",
        metavar="FORMAT",
        help="store images in a format that decodes faster: raw (large) or jpeg (lossy)",
    )
    build.add_argument("--workers", type=int, default=0, help="processes; default: one a core")
    build.set_defaults(run=_build)

    listing = actions.add_parser("list", help="the data sets we know, and which are built")
    listing.set_defaults(run=_list)

    toy = actions.add_parser("toy", help="write a miniature of a data set, to try the whole path")
    toy.add_argument("name", help="of the catalogue")
    toy.add_argument("--out", required=True, type=Path, help="new folder, as its provider has it")
    toy.add_argument("--form", default="", help="pascal_context: mat, png, json, pth or old_pth")
    toy.set_defaults(run=_toy)

    init = actions.add_parser("init", help="describe your own folder of images and masks")
    init.add_argument("folder", type=Path)
    init.add_argument("--name", default="", help="of the data set; default: the folder's")
    init.add_argument("--classes", type=Path, help="list of class names; default: classes.txt")
    init.add_argument("--force", action="store_true", help="write dataset.json anew")
    init.set_defaults(run=_init)

    check = actions.add_parser("check", help="find what is wrong with a data set")
    check.add_argument("target", help="your folder, or an archive of it, or a name")
    check.add_argument("--source", type=Path, help="check this source, not what was built")
    check.add_argument("--page", type=Path, help="write the findings as an HTML page, too")
    check.set_defaults(run=_check)

    show = actions.add_parser("show", help="write a page of samples with their labels")
    show.add_argument("target", help="the name of a built data set")
    show.add_argument("--split", default="train")
    show.add_argument("--count", type=int, default=8, help="examples")
    show.add_argument("--config", help="config file whose augmentation is shown")
    show.add_argument("--page", type=Path, help="default: NAME_SPLIT.html")
    show.set_defaults(run=_show)
    for command in (check, show):
        command.add_argument("--dir", default="", help="built data sets; default: $OPENSEG_DATA")
    return [build, listing, toy, init, check, show]


def _build(arguments) -> None:
    from openseg_jax.config import data_dir
    from openseg_jax.data import builder, catalog, folder

    if arguments.name == "folder":
        if arguments.source is None:
            raise UserError("Where are your images and masks? Give --source FOLDER.")
        dataset = folder.dataset(arguments.source, arguments.own_name)
        if dataset.name in catalog.names():
            raise UserError(f"{dataset.name} is a data set of ours. Give yours another --name.")
    else:
        dataset = catalog.get(arguments.name)
    root = data_dir(arguments.out)
    there = builder.place(dataset, root).is_dir()
    built = builder.build(dataset, arguments.source, root, arguments.reencode, arguments.workers)
    print(f"{dataset.name} is in {built}: {builder.summary(built)}")
    if there:
        print("It was built before. Remove that folder to build it anew.")
    cost = builder.cost(built)
    if cost:
        print(cost)


def _list(arguments) -> None:
    from openseg_jax.config import data_dir
    from openseg_jax.data import catalog, folder

    root = data_dir("")
    built = folder.built_names(root)
    for name in catalog.names():
        dataset = catalog.get(name)
        mark = "built" if (dataset.stored_as or name) in built else ""
        print(f"{name:24} {mark:5}  {dataset.num_classes:3} classes  {dataset.title}")
    own = [name for name in built if name not in catalog.names()]
    print(f"Your own, in {root}: {', '.join(own) or 'none'}")


def _toy(arguments) -> None:
    from openseg_jax.data.toy import miniatures

    name, out = miniatures.write(arguments.name, arguments.out, arguments.form), arguments.out
    built = out.with_name(f"{out.name}_built")  # not among the real ones
    print(
        f"Wrote {out}: a few drawn pictures in the layout of {name}. Then\n"
        f"  openseg data build {name} --source {out} --out {built}\n"
        f"  openseg data show {arguments.name} --dir {built}\n"
        f"and any config of it reads that with --config.data.dir={built}"
    )


def _init(arguments) -> None:
    from openseg_jax.data import description
    from openseg_jax.data.inspect import inspect

    path = arguments.folder / description.FILE
    if path.exists() and not arguments.force:
        raise UserError(f"{path} exists. Edit it, or write it anew with --force.")
    finding = inspect(arguments.folder, arguments.name, arguments.classes)
    found = finding.description
    description.save(found, arguments.folder)
    config = arguments.folder / f"{found.name}_ocr.py"
    if not config.exists():
        config.write_text(CONFIG.format(name=found.name, file=config))
    for split, patterns in found.splits.items():
        print(f"{split}: images {patterns['images']}, masks {patterns.get('masks', 'none')}")
    total = sum(finding.pixels.values())
    for index, category in enumerate(found.classes):
        pixels = sum(finding.pixels.get(value, 0) for value in category.values)
        values = ", ".join(map(str, category.values)) or "the rest"
        share = "" if found.masks == "files" else f"{pixels / total:8.3%}  "
        print(f"{index:>3}  {share}{category.name}  ({values})")
    print("\n".join(finding.notes))
    print(
        f"Wrote {path}: correct it where it is wrong. Then\n"
        f"  openseg data check {arguments.folder}\n"
        f"  openseg data build folder --source {arguments.folder}\n"
        f"  openseg train --config={config} --workdir=runs/{found.name}"
    )


def _check(arguments) -> int:
    from openseg_jax.data import catalog, description, doctor, doctor_report
    from openseg_jax.data.inspect import inspect

    target = Path(arguments.target)
    if arguments.source:
        report = doctor.check_source(catalog.get(arguments.target), arguments.source)
    elif target.is_file() or (target / description.FILE).is_file():
        report = doctor.check_folder(description.load(target), target)
    elif target.is_dir() and not _is_built(target):
        found = inspect(target).description
        print(f"{target} has no {description.FILE}; it is taken as `openseg data init` sees it.")
        report = doctor.check_folder(found, target)
    else:
        dataset, config = _built(arguments.target, arguments.dir)
        report = doctor.check_built(dataset, config.data.dir)
    print(doctor_report.text(report))
    if arguments.page:
        arguments.page.write_text(doctor_report.html(report), encoding="utf-8")
        print(f"Wrote {arguments.page}")
    return 1 if report.has_errors else 0


def _show(arguments) -> None:
    from openseg_jax.data.folder import typical_crop
    from openseg_jax.data.gallery import gallery

    dataset, config = _built(arguments.target, arguments.dir)
    if arguments.config:
        given = _read_config(arguments.config)
        config.augment, config.seed = given.augment, given.seed
    else:
        config.augment.crop = typical_crop(dataset, config.data.dir)
    page = gallery(dataset, config, arguments.split, arguments.count)
    path = arguments.page or Path(f"{dataset.name}_{arguments.split.replace('+', '_')}.html")
    path.write_text(page, encoding="utf-8")
    print(f"Wrote {path}")


def _built(target: str, directory: str):
    """The DataSet and a config for a built data set: of the catalogue, or the user's own."""
    from openseg_jax.config import default_config
    from openseg_jax.data import catalog, folder

    config = default_config()
    if target in catalog.names():
        config.data.update(name=target, dir=directory)
    else:
        folder.configure(config, str(Path(directory) / target) if directory else target)
    return folder.dataset_of(config.data), config


def _is_built(folder: Path) -> bool:
    return any(folder.glob("metadata.json")) or any(folder.glob("*/metadata.json"))


def _read_config(path: str):
    import runpy

    file, _, argument = path.partition(":")
    if not Path(file).is_file():
        raise UserError(f"--config {file} is no file.")
    get_config = runpy.run_path(file).get("get_config")
    if get_config is None:
        raise UserError(f"--config {file} defines no get_config.")
    return get_config(argument) if argument else get_config()
