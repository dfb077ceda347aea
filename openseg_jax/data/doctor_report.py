"""The findings of a check as people read them: a table for the terminal, and a page."""

from __future__ import annotations

from collections import defaultdict
from html import escape

import numpy as np

from openseg_jax.data.doctor import MENDS, Report
from openseg_jax.data.examine import ERROR, Problem
from openseg_jax.data.folder import class_weights, recommended_crop
from openseg_jax.report_page import page

EXAMPLES = 3  # files that are named of each kind of problem
BAR = 24  # characters


def text(report: Report) -> str:
    """Sizes, classes with their share of the pixels, problems with their mends, suggestions."""
    lines = [f"{split}: {_sizes(report, split)}" for split in report.sizes]
    lines += ["", *_class_lines(report), ""] if report.pixels else [""]
    for (severity, kind), places in _grouped(report.problems).items():
        lines.append(f"{severity.upper()}  {kind} ({len(places)}): {MENDS[kind]}")
        lines += [f"    {place}" for place in places[:EXAMPLES]]
        if len(places) > EXAMPLES:
            lines.append(f"    and {len(places) - EXAMPLES} more")
    errors = sum(problem.severity == ERROR for problem in report.problems)
    warnings = len(report.problems) - errors
    lines.append(f"{errors} errors, {warnings} warnings")
    return "\n".join(lines + _suggestions(report))


def html(report: Report) -> str:
    """The same as one page, with a histogram of the classes."""
    body = f"<h1>{escape(report.dataset.title)}</h1>"
    body += "".join(f"<p>{escape(split)}: {_sizes(report, split)}</p>" for split in report.sizes)
    body += "<h2>Findings</h2><div class=card><table>"
    for (severity, kind), places in _grouped(report.problems).items():
        named = "<br>".join(escape(place) for place in places)
        body += (
            f"<tr><td>{severity}<td>{kind} ({len(places)})<td>{MENDS[kind]}"
            f"<td><details><summary>where</summary>{named}</details>"
        )
    body += "</table></div>" if report.problems else "<tr><td>none</table></div>"
    for split, pixels in report.pixels.items():
        body += f"<h2>Classes of {escape(split)}</h2><div class=card><table>{_bars(report, pixels)}"
        body += "</table></div>"
    suggestions = "<br>".join(escape(line) for line in _suggestions(report))
    return page(f"{report.dataset.name}: check", f"{body}<p>{suggestions}</p>")


def _bars(report: Report, pixels: np.ndarray) -> str:
    share = pixels / max(pixels.sum(), 1)
    rows = ""
    names = [*report.dataset.classes, "ignored"]
    colors = [*report.dataset.palette, (0, 0, 0)]
    for name, color, part in zip(names, colors, share, strict=True):
        rgb = ",".join(map(str, color))
        rows += (
            f'<tr><td><i class="swatch" style="background:rgb({rgb})"></i>{escape(name)}'
            f'<td class="number">{part:.3%}<td class="bar"><i style="width:{100 * part:.3f}%"></i>'
        )
    return rows


def _sizes(report: Report, split: str) -> str:
    sizes = [size for size in report.sizes[split] if size != (0, 0)]
    if not sizes:
        return f"{len(report.sizes[split])} images, none readable"
    height, width = np.median(sizes, axis=0).astype(int)
    return f"{len(report.sizes[split])} images, typically {width}x{height} (width x height)"


def _class_lines(report: Report) -> list[str]:
    names = [*report.dataset.classes, "ignored"]
    width = max(map(len, ["class", *names]))
    columns = {split: max(9, len(split) + 2) for split in report.pixels}
    lines = [f"{'class':{width + 4}}" + "".join(f"{s:>{wide}}" for s, wide in columns.items())]
    shares = {split: counts / max(counts.sum(), 1) for split, counts in report.pixels.items()}
    first = next(iter(shares.values()))
    for index, name in enumerate(names):
        number = "" if name == "ignored" else index
        row = f"{number:>3} {name:{width}}"
        row += "".join(f"{share[index]:>{columns[s]}.3%}" for s, share in shares.items())
        lines.append(f"{row}  {'█' * round(BAR * first[index])}".rstrip())
    return lines


def _grouped(problems: list[Problem]) -> dict[tuple[str, str], list[str]]:
    grouped = defaultdict(list)
    for problem in sorted(problems, key=lambda problem: problem.severity):
        grouped[problem.severity, problem.kind].append(problem.where)
    return dict(grouped)


def _suggestions(report: Report) -> list[str]:
    train = report.pixels.get("train")
    sizes = [size for size in report.sizes.get("train", []) if size != (0, 0)]
    if train is None or not sizes:
        return []
    crop = recommended_crop(np.median(sizes, axis=0).astype(int).tolist())
    return [
        f"suggested: config.augment.crop = {crop}",
        f"suggested: config.loss.class_weights = {class_weights(train[:-1].tolist())}",
    ]
