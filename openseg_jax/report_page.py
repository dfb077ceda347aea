"""The frame of `report.html`: how the page looks, and how its tables sort."""

from __future__ import annotations

from html import escape

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
  background: rgb(214 94 32 / var(--shade)) } .heat .full { color: #fff }
.heat .right { background: rgb(59 130 214 / var(--shade)) }
.heat th:not(:first-child) { text-align: center; padding: 0 }
summary { cursor: pointer } pre { overflow: auto; font-size: .82rem }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.2rem; margin: 0 }
dd { margin: 0; overflow-wrap: anywhere }
@media (max-width: 600px) { .bar { display: none } td, th { padding: .2rem .35rem }
  th[data-sort] { white-space: normal } td:has(.swatch) { white-space: nowrap }
  figure img { max-width: none; width: 50rem } }
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


def page(title: str, body: str) -> str:
    """A whole HTML document that refers to nothing outside itself."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style>"
        f"</head><body>{body}<script>{SCRIPT}</script></body></html>\n"
    )
