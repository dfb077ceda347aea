"""The recipes: the tables of the original, what its scripts set, and the page made of them."""

import ast
import itertools
import sys
from pathlib import Path

import numpy as np
import pytest

from openseg_jax.bridge.reference import original_names
from openseg_jax.config import read_config, to_dict
from openseg_jax.config_checks import differences, validate
from openseg_jax.errors import UserError
from openseg_jax.models import segmenter
from openseg_jax.recipes.backbones import BACKBONES
from openseg_jax.training.checkpoint import Checkpoints, flatten
from openseg_jax.training.initialization import initialize_from

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "configs"
sys.path.insert(0, str(ROOT / "scripts"))
import model_zoo  # noqa: E402

METHODS = ("fcn", "ocnet", "isa", "ocr")
LARGE = ("resnet101", "wide_resnet38", "hrnet_w48")
# (batch size, steps) as the tables of the README have them.
CITYSCAPES = {
    **{(method, "mobilenet_v2"): (16, 40_000) for method in METHODS},
    **{(method, "resnet101"): (8, 40_000) for method in METHODS},
    **{(method, "wide_resnet38"): (16, 20_000) for method in METHODS},
    ("fcn", "wide_resnet38"): (8, 40_000),
    **{(method, "hrnet_w48"): (8, 100_000) for method in METHODS},
}
OTHERS = {
    "ade20k": (16, 150_000),
    "lip": (32, 100_000),
    "pascal_voc": (16, 60_000),
    "pascal_context": (16, 30_000),
    "coco_stuff": (16, 60_000),
}
DATASETS = ("cityscapes", *OTHERS)
TABLES = {("cityscapes", *row): numbers for row, numbers in CITYSCAPES.items()} | {
    (dataset, *row): numbers
    for dataset, numbers in OTHERS.items()
    for row in itertools.product(METHODS, LARGE)
}


def load(stem, argument=""):
    return read_config(f"{CONFIGS}/{stem}.py" + (f":{argument}" if argument else ""))


def test_there_are_76_rows():
    assert len(TABLES) == 76


@pytest.mark.parametrize("row", TABLES, ids="-".join)
def test_row_of_the_tables(row):
    dataset, method, backbone = row
    config = load(f"{dataset}_{method}", backbone)
    validate(config)
    network = segmenter.build(config.model, rng=None)
    assert (network.method, network.norm) == (method, "bn")
    assert (config.data.name, config.model.backbone) == (dataset, backbone)
    assert (config.train.batch_size, config.train.steps) == TABLES[row]
    assert (config.loss.shards, config.init_from) == (4, "")


def test_published_recipes_differ_where_the_scripts_do():
    changed = {}
    for dataset, method, backbone in TABLES:
        plain, published = (
            load(f"{dataset}_{method}", backbone + flag) for flag in ("", ",published")
        )
        validate(published)
        if lines := differences(to_dict(plain), to_dict(published)):
            changed[f"{dataset}_{method}:{backbone}"] = lines
    cityscapes, context = ["train.steps: 100000 -> 80000"], ["train.steps: 30000 -> 60000"]
    assert changed == {
        **{f"cityscapes_{method}:hrnet_w48": cityscapes for method in METHODS},
        **{f"pascal_context_{method}:hrnet_w48": context for method in METHODS},
        "pascal_voc_fcn:hrnet_w48": ["train.steps: 60000 -> 100000"],
        "coco_stuff_ocr:hrnet_w48": ["loss.name: 'ce' -> 'ohem'"],
    }


def test_every_backbone_has_a_recipe():
    assert BACKBONES.keys() == segmenter.BACKBONES.keys()
    validate(load("lip_fcn"))  # without an argument, too
    for dataset, method, backbone in itertools.product(DATASETS, METHODS, BACKBONES):
        validate(load(f"{dataset}_{method}", backbone))


@pytest.mark.parametrize("backbone", ["mobilenet_v2", "resnet18", "resnet50_7x7", "hrnet_w18"])
def test_methods_build_on_other_backbones(backbone):
    for method in METHODS:
        segmenter.build(load(f"ade20k_{method}", backbone).model, rng=None)


# Crop, learning rate, its factor for the head, weight decay, steps between evaluations.
SOLVERS = {
    "cityscapes": ((512, 1024), 0.01, 1, 5e-4, 1000),
    "ade20k": ((520, 520), 0.02, 1, 1e-4, 10_000),
    "lip": ((473, 473), 0.007, 1, 5e-4, 10_000),
    "pascal_voc": ((513, 513), 0.001, 10, 1e-4, 5000),
    "pascal_context": ((520, 520), 0.001, 10, 1e-4, 5000),
    "coco_stuff": ((520, 520), 0.001, 10, 1e-4, 5000),
}


@pytest.mark.parametrize("dataset", DATASETS)
def test_solver_of_a_data_set(dataset):
    for method, backbone in itertools.product(METHODS, ("resnet101", "hrnet_w48")):
        config = load(f"{dataset}_{method}", backbone)
        solver = config.optimizer
        assert SOLVERS[dataset] == (
            config.augment.crop,
            solver.learning_rate,
            solver.head_lr_multiplier,
            solver.weight_decay,
            config.train.eval_every,
        )
        assert (solver.name, solver.momentum, solver.decay_norm_and_bias) == ("sgd", 0.9, True)
        assert (solver.schedule, solver.poly_power, solver.warmup_steps) == ("poly", 0.9, 0)
        assert config.loss.aux_weight == 0.4
        assert len(config.loss.class_weights) == (19 if dataset == "cityscapes" else 0)


def test_wide_resnet_on_cityscapes_has_a_solver_of_its_own():
    for method in METHODS:
        config = load(f"cityscapes_{method}", "wide_resnet38")
        loss = config.loss
        assert (config.augment.crop, config.optimizer.learning_rate) == ((800, 800), 0.002)
        assert (loss.name, loss.ohem_threshold, loss.ohem_min_kept) == ("ohem", 0.7, 200_000)
        assert (loss.aux_weight, loss.class_weights) == (0.2, ())


def test_hard_pixels_are_mined_where_the_scripts_do():
    mined = {
        f"{dataset}_{method}:{backbone}": (config.loss.ohem_threshold, config.loss.ohem_min_kept)
        for dataset, method, backbone in TABLES
        if (config := load(f"{dataset}_{method}", backbone)).loss.name == "ohem"
    }
    assert mined == {
        **{f"cityscapes_{method}:wide_resnet38": (0.7, 200_000) for method in METHODS},
        **{f"ade20k_{method}:hrnet_w48": (0.9, 100_000) for method in ("ocnet", "isa", "ocr")},
        "coco_stuff_ocnet:resnet101": (0.9, 50_000),
    }


def test_inputs_are_those_of_the_original():
    def inputs(dataset, backbone):
        data = load(f"{dataset}_ocr", backbone).data
        return data.channel_order, data.scale, data.mean[0], data.std[0]

    for dataset in DATASETS:
        caffe = ("bgr", 1.0, 104.00698793 if dataset == "lip" else 102.9801, 1.0)
        order = "rgb" if dataset in ("cityscapes", "lip") else "bgr"
        assert inputs(dataset, "resnet101") == caffe
        assert inputs(dataset, "hrnet_w48") == ("bgr", 255.0, 0.485, 0.229)
        assert inputs(dataset, "wide_resnet38") == (order, 255.0, 0.485, 0.229)


def test_images_are_sized_as_by_the_original():
    def sizes(dataset):
        config = load(f"{dataset}_ocr", "resnet101")
        settings = config.eval
        return (
            *(config.augment.resize, config.augment.resize_min_side, config.augment.scale),
            *(settings.size, settings.shorter_side, settings.fit_stride, settings.flip),
        )

    assert sizes("cityscapes") == ((), 0, (0.5, 2.0), (), 0, 1, False)
    assert sizes("ade20k") == ((), 520, (0.5, 2.0), (), 520, 8, False)
    assert sizes("lip") == ((473, 473), 0, (0.5, 1.5), (473, 473), 0, 1, True)
    assert sizes("pascal_voc") == ((), 513, (0.5, 2.0), (), 513, 1, False)
    assert (
        sizes("pascal_context") == sizes("coco_stuff") == ((), 520, (0.5, 2.0), (), 520, 1, False)
    )
    first = {d: load(f"{d}_fcn", "resnet101").augment.steps[:2] for d in DATASETS}
    assert first.pop("cityscapes") == ("random_resize", "crop")
    assert set(first.values()) == {("flip", "resize")}
    assert load("pascal_voc_fcn", "resnet101").data.train_split == "trainaug"


def test_the_original_knows_the_networks():
    def names(stem, argument=""):
        return original_names(load(stem, argument).model)

    assert names("cityscapes_ocr_b") == ("hrnet_w48_ocr_b", "hrnet48")
    assert names("cityscapes_ocr_stages") == ("hrnet_w48_ocr_b", "hrnet48")
    assert names("lip_ce2p") == ("ce2p_asp_ocrnet", "deepbase_resnet101_dilated16")
    assert names("cityscapes_segfix", "hrnet_2x20") == ("segfix_hrnet", "hrnet2x20")
    assert names("cityscapes_fcn", "resnest101") == ("fcnet", "deepbase_resnest101_dilated8")


def test_rows_beside_the_tables():
    built = set()
    for dataset, recipes in model_zoo.MORE.items():
        for recipe in recipes:
            config = model_zoo.read(f"{dataset}_{recipe}")
            validate(config)
            network = config.model.method, config.model.backbone
            if network not in built:
                segmenter.build(config.model, rng=None)
            built.add(network)
    assert len(built) > 12


def test_stages_go_on_from_one_another():
    def stage(argument):
        config = load("cityscapes_ocr_stages", argument)
        train, rate = config.train, config.optimizer.learning_rate
        return (
            *(train.batch_size, train.steps, rate, config.loss.name, config.data.train_split),
            *(train.freeze_norm, config.init_from, config.init_strict),
        )

    trainval, coarse, final = map(stage, ("hrnet_w48", "hrnet_w48,coarse", "hrnet_w48,final"))
    assert trainval[:6] == (8, 120_000, 1e-3, "ohem", "trainval", False)
    assert trainval[6:] == ("runs/mapillary_ocr_b", False)  # other classes
    assert coarse[:6] == (16, 50_000, 1e-4, "ohem", "train_extra", True)
    assert coarse[6:] == ("runs/hrnet_w48_trainval", True)
    assert final[:6] == (8, 20_000, 1e-4, "ohem", "trainval", False)
    assert final[6:] == ("runs/hrnet_w48_coarse", True)
    page = (ROOT / "MODEL_ZOO.md").read_text()
    for folder in (trainval[6], coarse[6], final[6]):
        assert f"--workdir={folder} " in page or f"--workdir={folder}\n" in page


def test_a_stage_starts_from_a_run_on_other_classes(tmp_path):
    model = load("toy_ocr").model

    def network(classes):
        model.num_classes = classes
        return segmenter.build(model, np.random.default_rng(classes))

    def arrays(network):
        params, stats, _ = segmenter.graphs(network)
        return flatten({"params": params, "stats": stats})

    mapillary, cityscapes = network(65), network(19)
    before = arrays(cityscapes)
    with Checkpoints(tmp_path) as checkpoints:
        params, stats, _ = segmenter.graphs(mapillary)
        checkpoints.save(5, {"params": params, "stats": stats}, {})
    with pytest.raises(UserError, match="config.init_strict=False"):
        initialize_from(str(tmp_path), network(19))
    initialize_from(str(tmp_path), cityscapes, strict=False)
    expected = arrays(mapillary) | {n: a for n, a in before.items() if ".classifier." in n}
    found = arrays(cityscapes)
    assert len(expected) == len(found) == len(before)
    for name, array in found.items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


def test_segfix():
    def steps(argument):
        config = load("cityscapes_segfix", argument)
        assert (config.loss.name, config.optimizer.learning_rate) == ("segfix", 0.04)
        assert (config.train.batch_size, config.augment.crop) == (16, (512, 512))
        return config.data.boundaries, config.data.train_split, config.train.steps

    assert steps("hrnet_w48") == steps("hrnet_2x20") == ("classes", "train", 80_000)
    assert steps("hrnet_w48,instances") == ("instances", "train", 20_000)
    assert steps("hrnet_w48,trainval") == ("classes", "trainval", 80_000)
    assert steps("hrnet_2x20,trainval") == ("classes", "trainval", 120_000)


def test_newer_branch():
    for dataset, numbers in {
        "cityscapes": (16, 40_000, 0.02),
        "ade20k": (16, 150_000, 0.02),
        "lip": (32, 100_000, 0.007),
        "pascal_context": (16, 60_000, 0.001),
        "coco_stuff": (16, 60_000, 0.001),
    }.items():
        config = load(f"{dataset}_ocr_rmi")
        train, loss = config.train, config.loss
        assert (train.batch_size, train.steps, config.optimizer.learning_rate) == numbers
        assert (config.dtype, loss.name, loss.shards, loss.class_weights) == (
            *("bfloat16", "rmi", 8, ()),
        )
    assert load("lip_ocr_rmi", "hrnet_w48,published").loss.name == "ce"
    for flags, name, steps, split in (
        ("ce", "ce", 40_000, "train"),
        ("ohem", "ohem", 40_000, "train"),
        ("ce,trainval", "ce", 80_000, "trainval"),
        ("ohem,trainval", "ohem", 80_000, "trainval"),
    ):
        config = load("cityscapes_ocr_rmi", f"hrnet_w48,{flags}")
        assert (config.loss.name, config.train.steps, config.data.train_split) == (
            *(name, steps, split),
        )
        assert len(config.loss.class_weights) == 19 and config.loss.ohem_threshold == 0.9


@pytest.mark.parametrize(
    "stem, argument, expected",
    [
        ("cityscapes_ocr", "hrnet_w84", ("hrnet_w84", "hrnet_w48")),
        ("ade20k_isa", "published", ("no backbone 'published'", "BACKBONE[,published]")),
        ("pascal_context_ocr", "resnet101,publishd", ("publishd", "Did you mean published?")),
        ("cityscapes_asp_ocr", "resnet101,published", ("'published' has no meaning here",)),
        ("cityscapes_segfix", "hrnet_w48,instance", ("Did you mean instances?",)),
    ],
)
def test_arguments_that_mean_nothing(stem, argument, expected):
    with pytest.raises(UserError) as error:
        load(stem, argument)
    for text in expected:
        assert text in str(error.value)


def test_configs_are_short():
    for file in CONFIGS.glob("*.py"):
        function = ast.parse(file.read_text()).body[-1]
        assert function.name == "get_config"
        lines = file.read_text().splitlines()[function.lineno : function.end_lineno]
        own = [line for line in lines if line.strip() and not line.strip().startswith("#")]
        assert len(own) <= 20, file.name


def test_the_page_is_up_to_date():
    page = model_zoo.page()
    assert (ROOT / "MODEL_ZOO.md").read_text() == page, "run scripts/model_zoo.py"
    for dataset in model_zoo.MORE:
        for file in CONFIGS.glob(f"{dataset}_*.py"):
            assert file.name in page
    for dataset, method, backbone in TABLES:
        assert f"`{dataset}_{method}.py:{backbone}`" in page


def test_the_page_prints_no_figure_that_nobody_read_again():
    figures = [
        {"value": 81.4, "protocol": "ss", "setting": "", "source": "OS", "trust": "R"},
        {"value": 79.55, "protocol": "ss", "setting": "40k", "source": "OS", "trust": "V"},
        {"value": 80.6, "protocol": "SF", "setting": "40k", "source": "OS", "trust": "V"},
        {"value": 80.0, "protocol": "ss", "setting": "", "source": "MM", "trust": "V"},
    ]
    assert model_zoo._figures(figures, original=True) == "OS: 79.55, SF 80.6 (40k)"
    assert model_zoo._figures(figures, original=False) == "MM: 80"


def test_the_page_tells_what_the_goldens_said():
    model = load("cityscapes_ocr", "resnet101").model
    network = "spatial_ocrnet__deepbase_resnet101_dilated8__c19"
    passed, failed = {"passed": True}, {"passed": False}
    step = {"train/spatial_ocrnet__deepbase_resnet50_dilated8__c19": passed}
    assert model_zoo.forward_status(model, {}) == "not recorded"
    assert model_zoo.forward_status(model, {f"eval/{network}": passed}) == "equal"
    both = {f"eval/{network}": passed, f"eval/{network}__abn": failed}
    assert model_zoo.forward_status(model, both) == "1 of 2 cases FAILED"
    assert model_zoo.step_status(model, step) == "equal on deepbase_resnet50_dilated8"
    on_mobilenet = load("cityscapes_ocr", "mobilenet_v2").model
    assert model_zoo.forward_status(on_mobilenet, step) == "none"
