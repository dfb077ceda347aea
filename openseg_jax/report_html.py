"""`report.html`: one file that shows a run, with nothing to fetch and nothing to install.

It can be mailed, archived, or opened on a cluster: curves are inline SVG, pictures are base64.
"""

from __future__ import annotations

import base64
import datetime
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import openseg_jax
from openseg_jax.data import catalog
from openseg_jax.errors import UserError
from openseg_jax.report import Palette, default_palette, percent, write_atomically

MAX_PICTURES = 12
PICTURE_WIDTH = 1400  # pixels
PICTURE_CHARACTERS = 2_200_000  # all pictures together, as base64: keeps the file under 3 MB
MAX_HEAT_MAP_CLASSES = 60
# Middle tones that stand out from a white page as well as from a dark one.
SERIES_COLORS = ("#3b82d6", "#e0732e", "#22a06b", "#9768d9", "#d6487e", "#8b8f98")

STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --muted: #667085; --line: #dfe3ea;
  --page: #f5f6f8; --card: #fff }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --muted: #98a2b3;
  --line: #323a48; --page: #12161d; --card: #1a202a } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 2rem 1.25rem 3rem; max-width: 1120px; background: var(--page);
  color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif }
h1 { font-size: 1.6rem; margin: 0; line-height: 1.25 }
h2 { font-size: 1.1rem; margin: 2rem 0 .7rem }
p { margin: .4rem 0 } .muted, th, dt, figcaption { color: var(--muted); font-size: .87rem }
.tiles, .charts { display: grid; gap: .8rem; margin: 1.1rem 0 .8rem }
.tiles { grid-template-columns: repeat(auto-fit, minmax(160px, 1fr)) }
.tiles b { display: block; font-size: 1.55rem; line-height: 1.3 }
.charts { grid-template-columns: repeat(auto-fit, minmax(min(440px, 100%), 1fr)) }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: .8rem 1rem; margin: 0 0 .8rem; overflow: auto }
.tiles .card, .charts .card { margin: 0 }
svg { display: block; width: 100%; height: auto; font-family: system-ui, sans-serif }
figure img { display: block; max-width: 100% }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
td, th { padding: .2rem .6rem; border-bottom: 1px solid var(--line); text-align: left }
th { font-weight: 500 } th[data-sort] { cursor: pointer; white-space: nowrap }
tr:last-child td { border-bottom: 0 } .number { text-align: right } .bar { width: 40% }
.bar i { display: block; height: 9px; border-radius: 0 4px 4px 0; background: #3b82d6 }
.swatch { display: inline-block; width: 14px; height: 14px; border-radius: 3px;
  vertical-align: -2px; margin-right: .45rem; border: 1px solid #8886 }
.legend { display: flex; flex-wrap: wrap; gap: .1rem 1.1rem; margin-bottom: .8rem }
.heat { width: auto; font-size: .72rem } .heat th { font-size: .78rem; white-space: nowrap }
.heat td, .heat th { padding: 0 .3rem; border: 0; line-height: 1.6 }
.heat td { min-width: var(--cell); text-align: center; border: 1px solid var(--card);
  background: rgb(59 130 214 / var(--shade)) } .heat .full { color: #fff }
.heat th:not(:first-child) { text-align: center; padding: 0 }
summary { cursor: pointer } pre { overflow: auto; font-size: .82rem }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.2rem; margin: 0 }
dd { margin: 0; overflow-wrap: anywhere }
"""

# Sorts by the clicked column; a second click turns the order round. Absent values stay last.
SCRIPT = """
document.querySelectorAll("th[data-sort]").forEach(head => head.onclick = () => {
  const turn = head.dataset.sort === "1" ? -1 : 1, column = head.cellIndex;
  const body = head.closest("table").tBodies[0], key = row => row.cells[column].textContent;
  const order = (a, b) => isNaN(a) && isNaN(b) ? turn * a.localeCompare(b)
    : isNaN(a) - isNaN(b) || turn * (a - b);
  head.dataset.sort = turn;
  [...body.rows].sort((a, b) => order(key(a), key(b))).forEach(row => body.append(row));
});
"""

Point = tuple[float, float]


def line_chart(
    series: dict[str, list[Point]],
    title: str,
    y_label: str,
    x_label: str = "step",
    log_y: bool = False,
) -> str:
    """An inline SVG of one or more curves, readable on a light and on a dark page.

    Args:
        series: `{name: [(x, y), ...]}`, x ascending. NaN and infinite values (with `log_y` also
            those not above zero) are left out; a lone point becomes a dot.
        title: what is shown.
        y_label: the unit of y.
        x_label: the unit of x.
        log_y: a logarithmic y axis.
    """
    curves = {name: _drawable(points, log_y) for name, points in series.items()}
    curves = {name: points for name, points in curves.items() if points}
    width, height, left, right, top, bottom = 560, 270, 62, 544, 62, 228
    parts = [
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}" '
        'fill="currentColor" font-size="12">',
        _text(left, 18, title, "start", 'font-size="14" font-weight="600"'),
    ]
    if not curves:
        return "".join([*parts, _text(width / 2, height / 2, "no data yet"), "</svg>"])

    xs, ys = zip(*(point for points in curves.values() for point in points), strict=True)
    x_ticks, y_ticks = _ticks(min(xs), max(xs)), (_log_ticks if log_y else _ticks)(min(ys), max(ys))
    # The y axis ends on ticks; the x axis ends with the data, so that no curve looks cut short.
    x_low, x_high = (min(xs), max(xs)) if min(xs) < max(xs) else (x_ticks[0], x_ticks[-1])
    scaled = math.log10 if log_y else float
    y_low, y_high = scaled(y_ticks[0]), scaled(y_ticks[-1])

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = (x - x_low) / (x_high - x_low), (scaled(y) - y_low) / (y_high - y_low)
        return round(left + (right - left) * across, 1), round(bottom - (bottom - top) * up, 1)

    for tick in y_ticks:
        y = place(x_low, tick)[1]
        parts.append(f'<path d="M{left} {y}H{right}" stroke="currentColor" opacity=".15"/>')
        parts.append(_text(left - 7, y + 4, _short(tick), "end"))
    for tick in x_ticks:
        if x_low <= tick <= x_high:
            parts.append(_text(place(tick, y_ticks[0])[0], bottom + 17, _short(tick)))
    parts.append(f'<path d="M{left} {bottom}H{right}" stroke="currentColor" opacity=".5"/>')
    parts.append(_text((left + right) / 2, height - 6, x_label))
    parts.append(_text(0, 0, y_label, more=f'transform="translate(14 {top + 83}) rotate(-90)"'))

    key_x = float(left)
    for i, (name, points) in enumerate(curves.items()):
        color = SERIES_COLORS[i % len(SERIES_COLORS)]
        key = f"{name}: {points[-1][1]:.4g}"
        parts.append(f'<rect x="{key_x}" y="33" width="14" height="4" rx="2" fill="{color}"/>')
        parts.append(_text(key_x + 19, 39, key, "start"))
        key_x += 36 + 6.5 * len(key)
        shown = _thinned(points)
        places = " ".join("{},{}".format(*place(*point)) for point in shown)
        parts.append(f'<polyline points="{places}" fill="none" stroke="{color}" '
                     'stroke-width="1.8" stroke-linejoin="round"/>')  # fmt: skip
        for x, y in shown if len(shown) <= 40 else ():  # few enough to point at one by one
            a, b = place(x, y)
            parts.append(f'<circle cx="{a}" cy="{b}" r="3" fill="{color}"><title>{escape(name)} '
                         f"{y:.5g} at {x:g}</title></circle>")  # fmt: skip
    return "".join(parts) + "</svg>"


def _drawable(points: Iterable[Point], log_y: bool) -> list[Point]:
    return [
        (x, y) for x, y in points
        if math.isfinite(x) and math.isfinite(y) and (y > 0 or not log_y)
    ]  # fmt: skip


def _thinned(points: list[Point], buckets: int = 250) -> list[Point]:
    """Lowest and highest point of each stretch of a long curve: small, yet no spike is lost."""
    if len(points) <= 2 * buckets:
        return points
    kept = {0, len(points) - 1}
    for stretch in np.array_split(np.arange(len(points)), buckets):
        kept |= {min(stretch, key=lambda i: points[i][1]), max(stretch, key=lambda i: points[i][1])}
    return [points[i] for i in sorted(kept)]


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers that enclose low and high; from 0 where that wastes little."""
    if low == high:
        low, high = low - abs(low) / 10, high + (abs(high) / 10 or 1)
    if 0 < low < high / 2:
        low = 0.0
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10, 20) if power * factor >= rough)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{i * step:.10g}") for i in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    last = max(last, first + 1)
    factors = (1, 2, 5) if last - first <= 2 else (1,)
    inner = [f * 10.0**k for k in range(first, last, 1 + (last - first) // 7) for f in factors]
    return [*inner, 10.0**last]


def _short(value: float) -> str:
    for unit, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= unit and abs(value) >= 1e4:
            return f"{value / unit:g}{letter}"
    return f"{value:g}"


def _text(x: float, y: float, text: str, anchor: str = "middle", more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {more}>{escape(text)}</text>'


def write_report(workdir: Path | str) -> Path:
    """Writes `report.html` into a workdir and returns its path.

    It shows whatever is there of `config.json`, `metrics.jsonl`, `eval/<step>.json` and the
    newest pictures `eval/<step>/*.png`: a run that has just begun, or was killed in the middle
    of a line, has a report too. Rows of `confusion` are the truth, columns the prediction.
    """
    workdir = Path(workdir)
    config, lines = _read_json(workdir / "config.json"), _read_lines(workdir / "metrics.jsonl")
    evaluations = _read_evaluations(workdir / "eval")
    if not (config or lines or evaluations):
        raise UserError(f"{workdir} has no config.json, metrics.jsonl or eval/*.json to report on.")
    scores = _by_step([*(line for line in lines if line.get("kind") == "eval"), *evaluations])
    training = _by_step(line for line in lines if line.get("kind") == "train")
    names, palette = _classes(config, scores)
    detailed = {step: fields for step, fields in scores.items() if fields.get("iou")}
    sections = {
        "Training": _charts(training, scores),
        "Intersection over union by class": _class_table(names, palette, detailed),
        "Confusion (latest evaluation)": _confusion(names, detailed),
        "Pictures": _gallery(workdir / "eval", names, palette),
        "Run": _facts(config, lines),
    }
    body = _headline(workdir.resolve(), config, max(training, default=0), scores)
    body += "".join(f"<h2>{title}</h2>{section}" for title, section in sections.items() if section)
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(workdir.resolve().name)} - openseg_jax</title><style>{STYLE}</style>"
        f"</head><body>{body}<script>{SCRIPT}</script></body></html>\n"
    )
    write_atomically(workdir / "report.html", page.encode())
    return workdir / "report.html"


def _parsed(text: str) -> dict[str, Any]:
    """The JSON object in the text; {} where it is damaged or cut short."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _read_json(path: Path) -> dict[str, Any]:
    return _parsed(path.read_text(errors="replace")) if path.is_file() else {}


def _read_lines(path: Path) -> list[dict[str, Any]]:
    text = path.read_text(errors="replace") if path.is_file() else ""
    return [line for line in map(_parsed, text.splitlines()) if line]


def _read_evaluations(folder: Path) -> list[dict[str, Any]]:
    # The plain `<step>.json` comes last and so wins over another protocol at the same step.
    paths = sorted(folder.glob("*.json"), key=lambda path: (path.stem.isdigit(), path.name))
    named = [{"step": int(path.stem)} if path.stem.isdigit() else {} for path in paths]
    return [step | _read_json(path) for step, path in zip(named, paths, strict=True)]


def _by_step(lines: Iterable[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """`{step: its fields}`, ascending. Later lines win: a resumed run repeats some steps."""
    merged: dict[int, dict[str, Any]] = {}
    for line in lines:
        if isinstance(line.get("step"), int):
            merged[line["step"]] = merged.get(line["step"], {}) | line
    return dict(sorted(merged.items()))


def _number(fields: Mapping[str, Any], key: str) -> float:
    return float(fields[key]) if isinstance(fields.get(key), (int, float)) else math.nan


def _curve(lines: Mapping[int, Mapping[str, Any]], key: str, factor: float = 1) -> list[Point]:
    return [(step, factor * _number(line, key)) for step, line in lines.items()]


def _best_step(scores: Mapping[int, Mapping[str, Any]]) -> int | None:
    return max(_drawable(_curve(scores, "miou"), False), key=lambda p: p[1], default=(None, 0))[0]


def _get(config: Mapping[str, Any], group: str, key: str, default: Any = "?") -> Any:
    fields = config.get(group)
    return fields.get(key, default) if isinstance(fields, dict) else default


def _classes(config: Mapping[str, Any], scores: Mapping) -> tuple[list[str], Palette]:
    """Names (of the newest evaluation, else of the data set) and a colour for each."""
    names, palette = (), ()
    try:
        data_set = catalog.get(_get(config, "data", "name"))
        names, palette = data_set.classes, data_set.palette
    except (UserError, ImportError, AttributeError):
        pass  # a user's own data: it has no colours of its own
    for fields in scores.values():
        names = fields.get("iou") or names
    return list(names), palette if len(palette) >= len(names) else default_palette(len(names))


def _headline(workdir: Path, config: Mapping, trained: int, scores: Mapping) -> str:
    what = [_get(config, *key) for key in
            (("data", "name"), ("model", "method"), ("model", "backbone"))]  # fmt: skip
    best, latest = _best_step(scores), max(scores, default=None)
    newest, total = scores.get(latest, {}), _get(config, "train", "steps", None)
    tiles = [
        ("best mIoU", percent(_number(scores.get(best, {}), "miou")), best),
        ("latest mIoU", percent(_number(newest, "miou")), latest),
        ("pixel accuracy", percent(_number(newest, "pixel_acc")), latest),
        ("mean accuracy", percent(_number(newest, "mean_acc")), latest),
    ]
    tiles = [(name, value, "not evaluated yet") if step is None else
             (name, f"{value} %", f"at step {step:,}") for name, value, step in tiles]  # fmt: skip
    tiles.append(("trained", f"{trained:,}", f"of {total:,} steps" if total else "steps"))
    cards = "".join(
        f'<div class="card"><span class="muted">{name}</span><b>{value}</b>'
        f'<span class="muted">{note}</span></div>' for name, value, note in tiles
    )  # fmt: skip
    protocol = newest.get("protocol") or {}
    protocol = " · ".join(f"{key}: {value}" for key, value in protocol.items()) or "none recorded"
    return (
        f"<h1>{escape(' · '.join(map(str, what)))}</h1>"
        f'<p class="muted">{escape(str(workdir))}</p><div class="tiles">{cards}</div>'
        f'<p class="muted">Evaluation protocol: {escape(protocol)}</p>'
    )


def _charts(training: Mapping, scores: Mapping) -> str:
    loss = {"loss": _curve(training, "loss")}
    if len(training) > 60:
        loss["running mean"] = _running_mean(loss["loss"])
    speed, wait = _curve(training, "images_per_second"), _curve(training, "data_wait", 100)
    charts = [
        line_chart(loss, "Training loss", "loss"),
        line_chart({"mIoU": _curve(scores, "miou", 100)}, "mIoU over evaluations", "mIoU in %"),
        line_chart({"learning rate": _curve(training, "lr")}, "Learning rate", "learning rate"),
        line_chart({"images/s": speed}, "Training speed", "images per second"),
        line_chart({"data wait": wait}, "Time spent waiting for data", "% of the time"),
    ]
    if norm := _drawable(_curve(training, "grad_norm"), True):
        charts.append(line_chart({"gradient norm": norm}, "Gradient norm", "norm", log_y=True))
    return f'<div class="charts">{"".join(map(_card, charts))}</div>'


def _card(content: str) -> str:
    return f'<div class="card">{content}</div>'


def _running_mean(points: list[Point]) -> list[Point]:
    """The mean over a thirtieth of the run, centred so that it does not lag behind."""
    points = _drawable(points, False)
    window = len(points) // 30 + 1
    sums = np.cumsum([0.0, *(y for _, y in points)])
    means = (sums[window:] - sums[:-window]) / window
    centres = points[window // 2 :][: len(means)]
    return [(x, float(mean)) for (x, _), mean in zip(centres, means, strict=True)]


def _swatch(color: Sequence[int]) -> str:
    return '<span class="swatch" style="background:#{:02x}{:02x}{:02x}"></span>'.format(*color)


def _class_table(names: list[str], palette: Palette, scores: Mapping) -> str:
    latest, best = max(scores, default=None), _best_step(scores)
    if latest is None:
        return ""
    newest, top = scores[latest]["iou"], scores.get(best, {}).get("iou", {})
    heads = [("number", "id"), ("", "class"), ("bar", ""), ("number", f"latest (step {latest:,})"),
             ("number", f"best (step {best:,})" if best is not None else "best")]  # fmt: skip
    rows = []
    for i, name in enumerate(names):
        value = _number(newest, name)
        length = f"width:{100 * value:.1f}%" if math.isfinite(value) else "width:0"
        rows.append(
            f'<tr><td class="number">{i}<td>{_swatch(palette[i])}{escape(name)}'
            f'<td class="bar"><i style="{length}"></i><td class="number">{percent(value)}'
            f'<td class="number">{percent(_number(top, name))}</tr>'
        )
    head = "".join(f'<th class="{c}"{" data-sort" * bool(t)}>{t}</th>' for c, t in heads)
    return _card(f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>")


def _confusion(names: list[str], scores: Mapping) -> str:
    newest = scores.get(max(scores, default=None), {})
    counts = np.asarray(newest.get("confusion") or [], float)
    if counts.shape != (len(names), len(names)) or not len(names):
        return ""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    mistakes = shares * (1 - np.eye(len(names)))
    worst = [np.unravel_index(i, shares.shape) for i in np.argsort(-mistakes, axis=None)[:6]]
    text = ", ".join(f"{names[t]} as {names[p]} ({100 * shares[t, p]:.1f} %)"
                     for t, p in worst if mistakes[t, p])  # fmt: skip
    note = f"Percent of each true class. Most frequent mistakes: {text or 'none'}"
    note = f'<p class="muted">{escape(note)}</p>'
    if len(names) > MAX_HEAT_MAP_CLASSES:
        return note
    return note + _card(_heat_map(names, shares))


def _heat_map(names: list[str], shares: np.ndarray) -> str:
    """A table of `(K, K)` shares in 0..1: a row is a true class, a column a predicted one."""
    # Shaded by the square root: a mistake of a few percent is what one looks for here.
    rows = ["<tr><th>true \\ predicted</th>" + "".join(f"<th>{i}</th>" for i in range(len(names)))]
    for i, (name, row) in enumerate(zip(names, shares, strict=True)):
        rows.append(f"</tr><tr><th>{i} {escape(name)}</th>")
        for other, share in zip(names, row, strict=True):
            if share < 0.0005:  # most cells of most matrices: keep them small
                rows.append("<td></td>")
                continue
            number = f"{100 * share:.0f}" if len(names) <= 25 and share >= 0.01 else ""
            rows.append(f'<td{" class=full" * bool(share > 0.4)} style="--shade:{share**0.5:.2f}" '
                        f'title="{escape(name)} as {escape(other)}: {100 * share:.1f} %">'
                        f"{number}</td>")  # fmt: skip
    cell = max(0.8, min(2.2, 44 / len(names)))
    return f'<table class="heat" style="--cell:{cell:.2f}rem">{"".join(rows)}</tr></table>'


def _gallery(folder: Path, names: list[str], palette: Palette) -> str:
    steps = sorted(int(path.name) for path in folder.glob("*/") if path.name.isdigit())
    paths = next((found for step in reversed(steps)
                  if (found := sorted((folder / str(step)).glob("*.png")))), [])  # fmt: skip
    figures, room = [], PICTURE_CHARACTERS
    for path in paths[:MAX_PICTURES]:
        encoded = _jpeg(path)
        if encoded and len(encoded) <= room:
            room -= len(encoded)
            figures.append(
                f'<figure class="card"><img alt="" src="data:image/jpeg;base64,{encoded}">'
                f"<figcaption>{escape(path.stem)}</figcaption></figure>"
            )
    if not figures:
        return ""
    keys = "".join(f"<span>{_swatch(c)}{escape(n)}</span>"
                   for n, c in zip(names, palette, strict=False))  # fmt: skip
    note = f"Step {int(paths[0].parent.name):,}, {len(figures)} of {len(paths)} pictures"
    return f'<p class="muted">{note}</p><div class="legend muted">{keys}</div>' + "".join(figures)


def _jpeg(path: Path) -> str:
    """The picture as base64 JPEG, at most PICTURE_WIDTH wide; "" where it cannot be read."""
    picture = cv2.imread(str(path))
    if picture is None:
        return ""
    if (shrink := PICTURE_WIDTH / picture.shape[1]) < 1:
        picture = cv2.resize(picture, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 80])[1]
    return base64.b64encode(jpeg.tobytes()).decode()


def _facts(config: Mapping[str, Any], lines: list[dict[str, Any]]) -> str:
    """Versions and devices of the run, where it recorded them, and its whole configuration."""
    facts: dict[str, Any] = {}
    for line in lines:
        if line.get("kind") not in ("train", "eval"):  # "run": what the run says of itself
            facts |= {key: value for key, value in line.items() if key not in ("kind", "step")}
    for group in ("versions", "devices", "environment"):
        value = config.get(group)
        facts |= value if isinstance(value, dict) else {group: value} if value else {}
    now = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    facts["report written"] = f"{now}, by openseg_jax {openseg_jax.__version__}"
    items = "".join(f"<dt>{escape(str(k))}</dt><dd>{escape(str(v))}</dd>" for k, v in facts.items())
    text = escape(json.dumps(config, indent=2, ensure_ascii=False))
    details = f"<details><summary>Configuration</summary><pre>{text}</pre></details>"
    return _card(f"<dl>{items}</dl>") + _card(details)
