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
from openseg_jax.evaluation.protocol import in_words
from openseg_jax.report import Palette, default_palette, percent, write_atomically
from openseg_jax.report_charts import Point, drawable, line_chart, running_mean
from openseg_jax.report_page import page

MAX_PICTURES = 12
PICTURE_WIDTH = 1400  # pixels
PICTURE_CHARACTERS = 2_200_000  # all pictures together, as base64: keeps the file under 3 MB
MAX_HEAT_MAP_CLASSES = 60


def write_report(workdir: Path | str) -> Path:
    """Writes `report.html` into a workdir and returns its path.

    It shows whatever is there of `config.json`, `metrics.jsonl`, `eval/<step>.json`, the newest
    pictures `eval/<step>/*.png` and, in a table, the evaluations by other protocols: a run that
    has just begun, or was killed in the middle of a line, has a report too. Rows of `confusion`
    are the truth, columns the prediction.
    """
    workdir = Path(workdir)
    config, lines = _read_json(workdir / "config.json"), _read_lines(workdir / "metrics.jsonl")
    name = _get(config, "eval", "name", "")  # of the evaluations that training makes
    everything = _read_evaluations(workdir / "eval")
    evaluations = [each for each in everything if each["name"] == name]
    others = [each for each in everything if each["name"] != name]
    if not (config or lines or everything):
        raise UserError(f"{workdir} has no config.json, metrics.jsonl or eval/*.json to report on.")
    scores = _by_step([*(line for line in lines if line.get("kind") == "eval"), *evaluations])
    training = _by_step(line for line in lines if line.get("kind") == "train")
    names, palette = _classes(config, scores)
    detailed = {step: fields for step, fields in scores.items() if fields.get("iou")}
    sections = {
        "Training": _charts(training, scores),
        "Intersection over union by class": _class_table(names, palette, detailed),
        "Confusion (latest evaluation)": _confusion(names, detailed),
        "Worst and best images": _gallery(workdir / "eval", name, names, palette, scores),
        "Other evaluations": _others(others),
        "Run": _facts(config, lines),
    }
    body = _headline(workdir.resolve(), config, max(training, default=0), scores)
    body += "".join(f"<h2>{title}</h2>{section}" for title, section in sections.items() if section)
    document = page(f"{workdir.resolve().name} - openseg_jax", body)
    write_atomically(workdir / "report.html", document.encode())
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
    """The results in `<step>.json` and `<step>_<name>.json`, each with its step and name."""
    found = []
    for path in sorted(folder.glob("*.json")):
        step, _, name = path.stem.partition("_")
        if step.isdigit():
            found.append({"step": int(step)} | _read_json(path) | {"name": name})
    return sorted(found, key=lambda each: (each["name"], each["step"]))


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
    return max(drawable(_curve(scores, "miou")), key=lambda p: p[1], default=(None, 0))[0]


def _get(config: Mapping[str, Any], group: str, key: str, default: Any = "?") -> Any:
    fields = config.get(group)
    return fields.get(key, default) if isinstance(fields, dict) else default


def _classes(config: Mapping[str, Any], scores: Mapping) -> tuple[list[str], Palette]:
    """Names (of the newest evaluation, else of the data set) and a colour for each."""
    names = tuple(_get(config, "data", "classes", ()))  # a user's own data set
    palette = tuple(map(tuple, _get(config, "data", "palette", ())))
    if not names:
        try:
            data_set = catalog.get(_get(config, "data", "name"))
            names, palette = data_set.classes, data_set.palette
        except UserError:
            pass  # a config of another version: numbers will do without names
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
    protocol = "\u00a0· ".join(f"{key}: {_shown(value)}" for key, value in protocol.items())
    return (
        f"<h1>{escape(' · '.join(map(str, what)))}</h1>"
        f'<p class="muted">{escape(str(workdir))}</p><div class="tiles">{cards}</div>'
        f'<p class="muted">Evaluation protocol: {escape(protocol or "none recorded")}</p>'
    )


def _charts(training: Mapping, scores: Mapping) -> str:
    loss = {"loss": _curve(training, "loss")}
    if len(training) > 60:
        loss["running mean"] = running_mean(loss["loss"])
    speed, wait = _curve(training, "images_per_second"), _curve(training, "data_wait", 100)
    charts = [
        line_chart(loss, "Training loss", "loss"),
        line_chart({"mIoU": _curve(scores, "miou", 100)}, "mIoU over evaluations", "mIoU in %"),
        line_chart({"learning rate": _curve(training, "lr")}, "Learning rate", "learning rate"),
        line_chart({"images/s": speed}, "Training speed", "images per second"),
        line_chart({"data wait": wait}, "Time spent waiting for data", "% of the time"),
    ]
    if norm := drawable(_curve(training, "grad_norm"), True):
        charts.append(line_chart({"gradient norm": norm}, "Gradient norm", "norm", log_y=True))
    return f'<div class="charts">{"".join(map(_card, charts))}</div>'


def _card(content: str) -> str:
    return f'<div class="card">{content}</div>'


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
    for i, name in enumerate(names):
        rows.append(f"</tr><tr><th>{i} {escape(name)}</th>")
        for j, (other, share) in enumerate(zip(names, shares[i], strict=True)):
            if share < 0.0005:  # most cells of most matrices: keep them small
                rows.append("<td></td>")
                continue
            number = f"{100 * share:.0f}" if len(names) <= 25 and share >= 0.01 else ""
            kind = "right" * (i == j) + " full" * bool(share > 0.4)
            rows.append(f'<td class="{kind}" style="--shade:{share**0.5:.2f}" '
                        f'title="{escape(name)} as {escape(other)}: {100 * share:.1f} %">'
                        f"{number}</td>")  # fmt: skip
    cell = max(0.8, min(2.2, 44 / len(names)))
    return f'<table class="heat" style="--cell:{cell:.2f}rem">{"".join(rows)}</tr></table>'


def _others(evaluations: list[dict[str, Any]]) -> str:
    """A table of results by other protocols than the one that training follows."""
    if not evaluations:
        return ""
    scores = {"miou": "mIoU", "pixel_acc": "pixel accuracy", "mean_acc": "mean accuracy",
              "boundary_iou": "Boundary IoU"}  # fmt: skip
    heads = "".join(f'<th class="number">{text}</th>' for text in scores.values())
    rows = []
    for fields in evaluations:
        values = "".join(f'<td class="number">{percent(_number(fields, key))}' for key in scores)
        how = in_words(fields["protocol"]) if "protocol" in fields else "none recorded"
        rows.append(f"<tr><td>{escape(fields['name'])}<td class=\"number\">{fields['step']:,}"
                    f"{values}<td>{escape(how)}</tr>")  # fmt: skip
    head = f'<th>name</th><th class="number">step</th>{heads}<th>protocol</th>'
    return _card(f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>")


def _gallery(folder: Path, name: str, names: list[str], palette: Palette, scores: Mapping) -> str:
    """The newest pictures; where there is no room for all, as many of the worst as of the best."""
    ending = f"_{name}" if name else ""
    steps = [path.name.removesuffix(ending) for path in folder.glob(f"*{ending}/")]
    steps = sorted(map(int, filter(str.isdigit, steps)), reverse=True)
    folders = {step: folder / f"{step}{ending}" for step in steps}
    step = next((step for step in steps if any(folders[step].glob("*.png"))), 0)
    folder = folders.get(step, folder)
    about = scores.get(step, {}).get("pictures") or {}
    files = list(about) or sorted(path.stem for path in folder.glob("*.png"))
    figures, room = {}, PICTURE_CHARACTERS
    by_turns = sorted(files, key=lambda file: file.rpartition("_")[2].zfill(4))  # worst_1, best_1
    for file in by_turns[:MAX_PICTURES]:
        encoded = _jpeg(folder / f"{file}.png")
        if encoded and len(encoded) <= room:
            room -= len(encoded)
            figures[file] = (
                f'<figure class="card"><img alt="" src="data:image/jpeg;base64,{encoded}">'
                f"<figcaption>{escape(_caption(file, about))}</figcaption></figure>"
            )
    if not figures:
        return ""
    keys = "".join(f"<span>{_swatch(c)}{escape(n)}</span>"
                   for n, c in zip(names, palette, strict=False))  # fmt: skip
    note = f"Step {step:,}, {len(figures)} of {len(files)} pictures"
    shown = "".join(figures[file] for file in files if file in figures)
    return f'<p class="muted">{note}</p><div class="legend muted">{keys}</div>{shown}'


def _caption(file: str, about: Mapping[str, Mapping]) -> str:
    if file not in about:
        return f"{file}.png"
    wrong = percent(_number(about[file], "wrong"))
    return f"{file.replace('_', ' ')}: {about[file].get('image')}, {wrong} % of its pixels wrong"


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
    """What the run last said of itself (parameters, devices, versions), and its configuration."""
    facts: dict[str, Any] = {}
    for line in lines:
        if line.get("kind") == "run":
            facts |= {key: value for key, value in line.items() if key not in ("kind", "step")}
    now = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    facts["report written"] = f"{now}, by openseg_jax {openseg_jax.__version__}"
    items = "".join(f"<dt>{escape(k)}</dt><dd>{escape(_shown(v))}</dd>" for k, v in facts.items())
    text = escape(json.dumps(config, indent=2, ensure_ascii=False))
    details = f"<details><summary>Configuration</summary><pre>{text}</pre></details>"
    return _card(f"<dl>{items}</dl>") + _card(details)


def _shown(value: Any) -> str:
    """A JSON value as one writes it in a sentence."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown(item)}" for key, item in value.items())
    return str(value)
