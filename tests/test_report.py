"""Pictures, tables and the HTML report of a run."""

from __future__ import annotations

import json
import math
import re
import xml.etree.ElementTree as ET

import browser
import numpy as np
import pytest
from PIL import Image

from openseg_jax import report, report_charts, report_html
from openseg_jax.data.dataset import IGNORE
from openseg_jax.errors import UserError
from openseg_jax.evaluation.protocol import Protocol

PALETTE = ((200, 0, 0), (0, 200, 0), (0, 0, 200))


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


@pytest.fixture
def label():
    label = np.zeros((40, 60), np.uint8)
    label[:, 20:40] = 1
    label[:, 40:] = IGNORE
    return label


@pytest.fixture
def workdir(tmp_path, image, label):
    """A run of 200 steps with two evaluations, killed while it wrote a line."""
    config = {
        "data": {"name": "no_such_data"},
        "model": {"method": "ocr", "backbone": "hrnet_w48"},
        "train": {"steps": 400},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    lines = [{"kind": "run", "step": 0, "parameters": 2109172, "devices": "8 x TPU <v5>",
              "mesh": {"data": 4, "height": 2}, "jax": "0.10.2"}]  # fmt: skip
    lines += [
        {"kind": "train", "step": s, "loss": 2 / s, "lr": 0.01, "images_per_second": 9.5,
         "data_wait": 0.02, "grad_norm": 1.0}
        for s in range(1, 201)
    ]  # fmt: skip
    lines += [{"kind": "eval", "step": s, "miou": s / 1000} for s in (100, 200)]
    text = "\n".join(map(json.dumps, lines)) + '\n{"kind": "train", "step": 201, "lo'
    (tmp_path / "metrics.jsonl").write_text(text)
    for step in (100, 200):
        evaluation = {
            "step": step,
            "miou": step / 1000,
            "pixel_acc": 0.9,
            "mean_acc": 0.6,
            "iou": {"road": 0.5, "<script>alert(1)</script>": step / 500, "train & tram": None},
            "confusion": [[90, 10, 0], [5, 5, 0], [0, 0, 0]],
            "protocol": {"scales": [1.0], "flip": False, "crop": "whole"},
        }
        report.save_png(tmp_path / f"eval/{step}/a_{step}.png", image)
        (tmp_path / f"eval/{step}.json").write_text(json.dumps(evaluation))
    return tmp_path


def test_default_palette_is_distinct_and_deterministic():
    palette = report.default_palette(200)
    assert len(set(palette)) == 200 and (0, 0, 0) not in palette
    assert palette[:20] == report.default_palette(20)
    few = np.array(palette[:60], int)  # hues that nearly repeat would be about 5 apart
    apart = np.abs(few[:, None] - few).sum(-1) + 999 * np.eye(60, dtype=int)
    assert apart.min() > 15


def test_colorize_shows_ignored_pixels_black(label):
    colors = report.colorize(label, PALETTE)
    assert colors.dtype == np.uint8 and colors.shape == (40, 60, 3)
    assert tuple(colors[0, 0]) == PALETTE[0] and tuple(colors[0, 25]) == PALETTE[1]
    assert not colors[:, 40:].any()


def test_colorize_names_a_class_without_a_colour():
    with pytest.raises(ValueError, match="class 7"):
        report.colorize(np.full((2, 2), 7, np.uint8), PALETTE)


def test_overlay_blends_classes_and_leaves_ignored_pixels(image, label):
    blended = report.overlay(image, label, PALETTE, alpha=0.5)
    np.testing.assert_array_equal(blended[:, 40:], image[:, 40:])
    expected = image[:, :19] / 2 + np.array(PALETTE[0]) / 2
    assert np.abs(blended[:, :19] - expected).max() <= 1
    assert blended[:, 19].min() >= 127  # the border, one pixel wide and bright


def test_overlay_refuses_a_label_of_another_size(image, label):
    with pytest.raises(ValueError, match="pixels"):
        report.overlay(image, label[:-1], PALETTE)


def test_panel_marks_wrong_pixels_red_and_stays_in_width(image, label):
    prediction = np.zeros_like(label)
    panel = report.comparison_panel(image, prediction, label, PALETTE, max_width=60)
    assert panel.shape == (40 + 20, 4 * 60 + 3 * 4, 3)
    errors = panel[20:, -60:].astype(int)
    redness = errors[..., 0] - errors[..., 1]
    assert redness[:, 20:40].min() > 100 and abs(redness[:, :20]).max() == 0
    assert errors[:, 40:].max() < 64  # ignored pixels are dark, whatever was predicted
    assert report.comparison_panel(image, prediction, None, PALETTE, 30).shape[1] == 64


def test_panel_of_a_fully_ignored_label(image, label):
    report.comparison_panel(image, label, np.full_like(label, IGNORE), PALETTE)


def test_legend_grows_columns_and_folds_names_to_ascii():
    few = report.legend(["Straße", "café", "木"], PALETTE)
    many = report.legend([f"class {i}" for i in range(150)], report.default_palette(150))
    assert few.dtype == np.uint8 and few.shape[2] == 3
    assert many.shape[1] > 4 * few.shape[1] and many.shape[0] < 700
    assert any((few == color).all(axis=-1).any() for color in PALETTE)
    report.legend([], ())


def test_table_aligns_and_shows_absent_classes():
    names = ["road", "n" * 80, "moon", "sun"]
    table = report.iou_table(names, [0.5, 1.0, None, math.nan], {"mIoU": 0.75, "mean acc": None})
    lines = table.splitlines()
    assert lines[1].endswith("50.00  " + "█" * 10)
    columns = {re.search(r"(\d+\.\d\d|-)(?=  |$)", line).end() for line in lines[1:5] + lines[6:]}
    assert len(columns) == 1  # every number ends in the same column
    assert lines[3].split() == ["2", "moon", "-"] and lines[4].split() == ["3", "sun", "-"]
    assert lines[6].split() == ["mIoU", "75.00"] and max(map(len, lines)) < 80


def test_palette_png_keeps_the_ids(tmp_path):
    ids = np.arange(256, dtype=np.uint8).reshape(16, 16)
    path = tmp_path / "new/folder/label.png"
    report.save_png(path, ids, PALETTE)
    with Image.open(path) as picture:
        assert picture.mode == "P"
        np.testing.assert_array_equal(np.asarray(picture), ids)
        assert picture.convert("RGB").getpixel((1, 0)) == PALETTE[1]
        assert picture.convert("RGB").getpixel((15, 15)) == (0, 0, 0)
    assert [file.name for file in path.parent.iterdir()] == ["label.png"]


def test_rgb_png_round_trip(tmp_path, image):
    report.save_png(tmp_path / "image.png", image)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "image.png")), image)


def test_chart_skips_what_cannot_be_drawn():
    points = [(0, 1.0), (10, math.nan), (20, math.inf), (30, 3.0)]
    svg = report_charts.line_chart({"a<b": points, "empty": []}, "Loss & more", "loss")
    ET.fromstring(svg)  # well formed, names escaped
    assert len(re.search('polyline points="([^"]*)"', svg)[1].split()) == 2
    assert "nan" not in svg and "inf" not in svg and "empty" not in svg


@pytest.mark.parametrize("log_y", [False, True])
@pytest.mark.parametrize("value", [0.0, 5.0, -3.0, 1e-9, 1e9])
def test_chart_of_a_lone_point_is_a_dot(value, log_y):
    svg = report_charts.line_chart({"x": [(7, value)]}, "t", "y", log_y=log_y)
    ET.fromstring(svg)
    drawable = value > 0 or not log_y
    assert ("<circle" in svg) is drawable and ("no data yet" in svg) is not drawable


def test_long_chart_is_small_but_keeps_the_spike():
    points = [(i, 1.0) for i in range(50_000)]
    points[31_234] = (31_234, 99.0)
    svg = report_charts.line_chart({"x": points}, "t", "y")
    heights = [float(pair.split(",")[1]) for pair in
               re.search('polyline points="([^"]*)"', svg)[1].split()]  # fmt: skip
    assert len(svg) < 20_000 and min(heights) < 70 < 200 < max(heights)


def test_chart_without_data():
    assert "no data yet" in report_charts.line_chart({}, "t", "y")


def test_report_of_a_killed_run(workdir):
    path = report_html.write_report(workdir)
    html = path.read_text()
    assert path == workdir / "report.html"
    assert "no_such_data · ocr · hrnet_w48" in html
    assert "<b>20.00 %</b>" in html and "at step 200" in html and "<b>200</b>" in html
    assert "scales: 1.0" in html and "flip: no" in html and "40.00" in html
    assert "road as &lt;script&gt;alert(1)&lt;/script&gt; (10.0 %)" in html
    assert html.count("data:image/jpeg;base64,") == 1 and "a_200" in html  # the newest only
    assert "no data yet" not in html
    for fact in ("2,109,172", "8 x TPU &lt;v5&gt;", "data 4, height 2", "0.10.2"):
        assert f"<dd>{fact}</dd>" in html


def test_report_escapes_and_refers_to_nothing_outside(workdir):
    html = report_html.write_report(workdir).read_text()
    assert "<script>alert" not in html and "train &amp; tram" in html
    assert "http" not in html and "@import" not in html
    assert all(source.startswith("data:") for source in re.findall(r'src="([^"]*)', html))


def test_evaluations_by_other_protocols_are_in_a_table(workdir):
    stamp = Protocol(scales=(0.5, 1.0), scale_weights=(2.0, 1.0), window=(32, 64)).stamp()
    about = {"dataset": "d", "split": "val", "images": 7, "dtype": "float32"}
    other = {"step": 200, "miou": 0.4321, "boundary_iou": 0.25, "protocol": stamp | about}
    (workdir / "eval" / "200_ms.json").write_text(json.dumps(other))
    text = report_html.write_report(workdir).read_text()
    row = re.search(r"<tr><td>ms.*?</tr>", text)[0]
    assert "43.21" in row and "25.00" in row
    assert "d val, 7 images, sliding window of 32x64 by 32x64" in row
    assert "scales 2.0 x 0.5, 1.0, sum of logits, float32" in row
    assert "20.00 %" in text  # of the newest evaluation of training, which is another one


def test_a_run_whose_evaluations_have_a_name_is_reported_by_them(workdir):
    config = json.loads((workdir / "config.json").read_text()) | {"eval": {"name": "x"}}
    (workdir / "config.json").write_text(json.dumps(config))
    for step in (100, 200):
        (workdir / f"eval/{step}.json").rename(workdir / f"eval/{step}_x.json")
        (workdir / f"eval/{step}").rename(workdir / f"eval/{step}_x")
    text = report_html.write_report(workdir).read_text()
    assert "scales: 1.0" in text and "Confusion" in text and "a_200.png" in text
    assert "Other evaluations" not in text


def test_report_without_evaluations(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"kind": "train", "step": 1, "loss": NaN}\n')
    html = report_html.write_report(tmp_path).read_text()
    assert "not evaluated yet" in html and "no data yet" in html


def test_report_of_a_resumed_run_takes_the_later_line_of_a_step(tmp_path):
    losses = [(1, 5.0), (2, 4.0), (3, 9.9), (2, 3.0), (3, 2.5)]  # killed at 3, resumed from 1
    lines = [json.dumps({"kind": "train", "step": s, "loss": loss}) for s, loss in losses]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    html = report_html.write_report(tmp_path).read_text()
    assert "loss 2.5 at 3" in html and "9.9" not in html


def test_report_with_many_classes_and_large_pictures_stays_small(workdir):
    names = [f"class {i}" for i in range(150)]
    evaluation = {"step": 300, "miou": 0.4, "iou": dict.fromkeys(names, 0.4)}
    evaluation["confusion"] = np.eye(150, dtype=int).tolist()
    (workdir / "eval/300.json").write_text(json.dumps(evaluation))
    noise = np.random.default_rng(0).integers(0, 256, (500, 700, 3), np.uint8)
    for i in range(14):
        report.save_png(workdir / f"eval/300/{i:02}.png", noise)
    path = report_html.write_report(workdir)
    assert path.stat().st_size < 3_000_000 and 'class="heat"' not in path.read_text()


def test_pictures_of_the_worst_and_the_best_images(workdir, image):
    path = workdir / "eval/200.json"
    about = {
        f"{kind}_{i}": {"image": f"street <{kind} {i}>", "wrong": i / 10}
        for kind in ("worst", "best")
        for i in range(1, 9)
    }
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pictures": about}))
    for file in about:
        report.save_png(workdir / f"eval/200/{file}.png", image)
    html = report_html.write_report(workdir).read_text()
    captions = re.findall("<figcaption>(.*?)</figcaption>", html)
    assert captions[0] == "worst 1: street &lt;worst 1&gt;, 10.00 % of its pixels wrong"
    # There is room for twelve: the first of each kind.
    expected = [f"{kind} {i}" for kind in ("worst", "best") for i in range(1, 7)]
    assert [caption.split(":")[0] for caption in captions] == expected


@pytest.mark.skipif(not browser.executable(), reason="no Chromium on this machine")
def test_report_in_a_browser(workdir, tmp_path):
    """On a phone and on a desktop: nothing sticks out, nothing fails, tables sort."""
    path = report_html.write_report(workdir)
    with browser.page(tmp_path / "profile") as page:
        for width, height, mobile in ((390, 844, True), (1280, 900, False)):
            page.open(path, width, height, mobile)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.evaluate("[...document.images].every(image => image.naturalWidth)")
            assert page.evaluate("document.querySelectorAll('svg').length") >= 5
            first = "document.querySelector('tbody tr td:nth-child(2)').textContent"
            assert page.evaluate(first) == "road"
            page.evaluate("document.querySelectorAll('th[data-sort]')[1].click()")
            assert page.evaluate(first) == "<script>alert(1)</script>"
            page.screenshot(tmp_path / f"report_{width}.png")
            assert Image.open(tmp_path / f"report_{width}.png").size[0] == width
        assert page.errors == []
        page.evaluate("console.error('told')")
        page.evaluate("1")
        assert len(page.errors) == 1  # it would have been noticed


def test_report_on_something_else_says_so(tmp_path):
    with pytest.raises(UserError, match="config.json"):
        report_html.write_report(tmp_path)
