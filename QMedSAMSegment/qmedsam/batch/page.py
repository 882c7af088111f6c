"""``index.html``: a page to look through the results of a run. No script, nothing from a network; made by string templates."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence
from urllib.parse import quote

from ..files import writing
from .report import SUMMARY, one_line
from .settings import DONE, FAILED, NOT_RUN, UNCHANGED, Outcome

PAGE = "index.html"

#: Objects of a case that are listed without being asked for.
_MANY = 8

_STYLE = """
:root { color-scheme: dark; }
body { margin: 0 auto; max-width: 1180px; padding: 24px; background: #14171c; color: #e6e8eb;
       font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 24px; margin: 0 0 4px; } h2 { font-size: 18px; margin: 36px 0 8px; }
a { color: #7fb8ff; text-decoration: none; } a:hover { text-decoration: underline; }
.faint { color: #8b929c; } .note { color: #ffb02e; margin: 4px 0 0; }
.failed { color: #ff7b72; } .done { color: #6fd28a; } .unchanged { color: #8b929c; } .not-run { color: #ffb02e; }
table { border-collapse: collapse; width: 100%; }
th, td { padding: 5px 10px; text-align: left; border-bottom: 1px solid #2a2f37; vertical-align: top; overflow-wrap: anywhere; }
th { color: #8b929c; font-weight: normal; } .number { text-align: right; white-space: nowrap; overflow-wrap: normal; }
td:first-child { min-width: 110px; }
section { background: #1b1f26; border-radius: 8px; margin: 18px 0; padding: 14px 16px; overflow-wrap: anywhere; }
section h3 { font-size: 16px; margin: 0 0 6px; }
section img { display: block; max-width: 100%; border-radius: 4px; margin: 8px 0; }
section table { width: auto; font-size: 14px; }
div.row { display: flex; flex-wrap: wrap; gap: 8px 18px; align-items: flex-start; }
summary { cursor: pointer; color: #7fb8ff; }
"""


def write_page(folder: Path, outcomes: Sequence[Outcome], about: Mapping[str, str], seconds: float) -> None:
    """Write the page of a run: failures with their sentences, a table of all cases, and every case's overlay.

    Pictures are files beside the page (a few hundred of them inside it would make a page that no browser opens), loaded as
    they come into view; the folder can be moved as a whole.

    Args:
        folder: of the run.
        outcomes: in the order to show.
        about: what to say about the run, by its name.
        seconds: that it took.
    """
    count = {state: sum(o.state == state for o in outcomes) for state in (DONE, UNCHANGED, FAILED, NOT_RUN)}
    states = ", ".join(f'<span class="{_class(state)}">{n} {state}</span>' for state, n in count.items() if n)
    parts = [
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>QMedSAM batch</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>{_STYLE}</style></head><body>",
        f"<h1>{len(outcomes)} {'case' if len(outcomes) == 1 else 'cases'}</h1>",
        f'<p>{states}; {_duration(seconds)}. <a href="{SUMMARY}">{SUMMARY}</a></p>',
        '<p class="faint">' + ", ".join(f"{_text(key)}: {_text(value)}" for key, value in about.items()) + "</p>",
    ]
    numbered = list(enumerate(outcomes))
    for state, title in ((FAILED, "Failed"), (NOT_RUN, "Not run")):
        chosen = [(n, o) for n, o in numbered if o.state == state]
        if chosen:
            rows = "".join(f"<tr><td>{_text(o.case)}</td><td>{_text(o.message)}</td></tr>" for _, o in chosen)
            parts.append(f'<h2 class="{_class(state)}">{title}</h2><table>{rows}</table>')
    good = [(n, o) for n, o in numbered if o.state in (DONE, UNCHANGED)]
    if good:
        parts.append(_table(good))
        parts += [_case(n, o, folder) for n, o in good]
    parts.append("</body></html>\n")
    with writing(folder / PAGE) as beside:
        beside.write_text("\n".join(parts), encoding="utf-8", errors="xmlcharrefreplace")


def _table(numbered: Sequence[tuple]) -> str:
    head = "".join(f'<th class="number">{name}</th>' for name in ("objects", "voxels", "ml", "confidence", "seconds"))
    rows = []
    for n, o in numbered:
        cells = (str(len(o.objects)), str(o.voxels), _number(o.volume_ml, 2), _number(o.confidence, 2), _number(o.seconds, 1))
        rows.append(
            f'<tr><td><a href="#case-{n}">{_text(o.case)}</a></td><td class="{_class(o.state)}">{o.state}</td>'
            + "".join(f'<td class="number">{cell}</td>' for cell in cells)
            + "</tr>"
        )
    return f"<h2>Segmented</h2><table><tr><th>case</th><th>state</th>{head}</tr>{''.join(rows)}</table>"


def _case(n: int, outcome: Outcome, folder: Path) -> str:
    output = Path(outcome.output)
    try:
        link = quote(output.relative_to(folder).as_posix(), errors="surrogateescape")
    except ValueError:
        link = output.as_uri()
    used = ", ".join(filter(None, [outcome.modality or "no modality", outcome.strategy, outcome.model]))
    parts = [
        f'<section id="case-{n}"><h3>{_text(outcome.case)}</h3>',
        f'<div class="faint">{_text(used)} · <a href="{escape(link)}">{_text(output.name)}</a></div>',
    ]
    if outcome.message:
        parts.append(f'<p class="note">{_text(outcome.message)}</p>')
    if outcome.overlay:
        source = escape(quote(outcome.overlay))
        parts.append(
            f'<div class="row"><a href="{source}"><img src="{source}" loading="lazy" alt="overlay of {_text(outcome.case)}"></a>'
        )
    else:
        parts.append('<div class="row"><span class="faint">no picture</span>')
    rows = "".join(
        f'<tr><td>{_text(str(o["name"]))}</td><td class="number">{o["voxels"]}</td>'
        f'<td class="number">{_number(None if outcome.volume_ml is None else o["volume_ml"], 2)}</td>'
        f'<td class="number">{_axes(o)}</td><td class="number">{_number(o["confidence"], 2)}</td></tr>'
        for o in outcome.objects
    )
    head = "<th>object</th>" + "".join(f'<th class="number">{name}</th>' for name in ("voxels", "ml", "mm", "confidence"))
    table = f"<table><tr>{head}</tr>{rows}</table>"
    if len(outcome.objects) > _MANY:
        table = f"<details><summary>{len(outcome.objects)} objects</summary>{table}</details>"
    parts.append(f"<div>{table}</div></div></section>")
    return "\n".join(parts)


def _axes(one: Dict[str, Any]) -> str:
    """Longest axial diameter, and across it."""
    return "" if one.get("long_mm") is None else f"{one['long_mm']:.1f} x {one['short_mm']:.1f}"


def _text(text: str) -> str:
    return escape(one_line(text))


def _class(state: str) -> str:
    return state.replace(" ", "-")


def _number(value: Optional[float], digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    units: List[str] = [f"{n} {unit}" for n, unit in ((hours, "h"), (minutes, "min"), (rest, "s")) if n]
    return " ".join(units[:2]) or "under a second"
