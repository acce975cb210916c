"""The page itself: sections of tables and pictures in one HTML file that needs no network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files

from harness.reporting.pages.drawing import Picture, shown
from harness.tracking.runs import RunRecord

MOST_ROWS = 15  # of the leaderboard that are open at first


@dataclass(frozen=True, kw_only=True, eq=False)
class Section:
    """A part of the page. `missing` says why there is nothing to see, and what would bring it."""

    title: str
    link: str = ""  # its title in the line of links, where that is shorter
    pictures: Sequence[Picture] = ()
    html: str = ""
    lead: str = ""
    missing: str = ""


def build_page(title: str, lead: str, facts: Sequence[tuple[str, str]], sections: Sequence[Section]) -> str:
    """The whole page. `facts` are shown on top: a number or a few words, and what they are."""
    style = files("harness.reporting.pages").joinpath("page.css").read_text()
    links = "".join(
        f'<a href="#{_slug(section.title)}">{escape(section.link or section.title)}</a>' for section in sections
    )
    cards = "".join(f"<div><dd>{escape(value)}</dd><dt>{escape(name)}</dt></div>" for value, name in facts)
    body = "\n".join(_section(section) for section in sections)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>
{style}</style>
</head>
<body>
<header>
<h1>{escape(title)}</h1>
<p>{escape(lead)}</p>
<dl class="facts">{cards}</dl>
</header>
<nav aria-label="Sections">{links}</nav>
<main>
{body}
</main>
</body>
</html>
"""


def leaderboard(records: Sequence[RunRecord], names: Sequence[str], objective: str, epochs: Mapping[str, int]) -> str:
    """The runs as a table, the best first; `epochs` of each run by its id."""
    heads = ["", "run", "status", objective, "at epoch", *names, "epochs", "reused"]
    values = [record.value for record in records if record.value is not None]
    low, high = (min(values), max(values)) if values else (0.0, 0.0)
    rows = []
    for place, record in enumerate(records, start=1):
        best_epoch, reused = record.metrics.get("best_epoch"), record.metrics.get("reused_epochs")
        share = 1.0 if record.value is None or high == low else (record.value - low) / (high - low)
        value = "" if record.value is None else (
            f'<span class="bar" style="--share:{0.06 + 0.94 * share:.3f}"></span>{record.value:.4f}'
        )  # fmt: skip
        cells = [
            f"<td>{place}</td>",
            f'<td class="text">{escape(record.name)} <code>{record.run_id[:8]}</code></td>',
            f'<td class="text {record.status.lower()}" title="{escape(record.reason or "", quote=True)}">'
            f"{escape(record.status.lower())}</td>",
            f'<td class="value">{value}</td>',
            f"<td>{'' if best_epoch is None else round(best_epoch) + 1}</td>",
            *(f"<td>{escape(shown(record.params.get(name, '')))}</td>" for name in names),
            f"<td>{epochs.get(record.run_id, '')}</td>",
            f"<td>{'' if reused is None else round(reused)}</td>",
        ]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    table = _table(heads, rows[:MOST_ROWS], words=(1, 2))
    if len(rows) > MOST_ROWS:
        rest = _table(heads, rows[MOST_ROWS:], words=(1, 2))
        table += f"<details><summary>{len(rows) - MOST_ROWS} more</summary>{rest}</details>"
    return table


def mixed_up_table(pairs: Sequence[tuple[str, str, int, int]]) -> str:
    """The commonest mistakes as a table."""
    most = max(count / total for _, _, count, total in pairs)
    rows = [
        f'<tr><td class="text">{escape(true)}</td><td class="text">{escape(said)}</td>'
        f'<td class="value"><span class="bar" style="--share:{count / total / most:.3f}"></span>'
        f"{count} of {total} ({count / total:.0%})</td></tr>"
        for true, said, count, total in pairs
    ]
    return _table(["true class", "taken for", "how often"], rows, words=(0, 1))


def pairs_table(pairs: Mapping[str, str]) -> str:
    """Names and what they stand for."""
    rows = [f'<tr><th scope="row">{escape(n)}</th><td class="text">{escape(v)}</td></tr>' for n, v in pairs.items()]
    return f'<div class="wide"><table class="pairs"><tbody>{"".join(rows)}</tbody></table></div>'


def _table(heads: Sequence[str], rows: Sequence[str], *, words: Sequence[int]) -> str:
    """A table; the columns at the places `words` hold words, the others numbers."""
    kinds = [' class="text"' if place in words else "" for place in range(len(heads))]
    head = "".join(f'<th scope="col"{kind}>{escape(text)}</th>' for text, kind in zip(heads, kinds, strict=True))
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _section(section: Section) -> str:
    lead = f"<p>{escape(section.lead)}</p>" if section.lead else ""
    missing = f'<p class="missing">{escape(section.missing)}</p>' if section.missing else ""
    pictures = "".join(_figure(picture, alone=picture.title == section.title) for picture in section.pictures)
    return (
        f'<section id="{_slug(section.title)}"><h2>{escape(section.title)}</h2>'
        f"{lead}{missing}{section.html}{pictures}</section>"
    )


def _figure(picture: Picture, *, alone: bool) -> str:
    title = "" if alone else f"<h3>{escape(picture.title)}</h3>"
    return (
        f'<figure id="picture-{picture.name}" class="{picture.name}">{title}{picture.svg}'
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
    )


def _slug(title: str) -> str:
    return title.lower().replace(" ", "-").replace(",", "")
