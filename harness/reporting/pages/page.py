"""Builds the page: sections with tables and pictures, in one HTML file that works without a network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files

from harness.reporting.pages.drawing import Picture

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
CHARTS = """
<div class="chart" id="parallel" role="img" aria-label="Parallel coordinates: a line a run. The same, not
interactive, is printed below the table."></div>
<p class="tools chart"><span id="count" role="status"></span> <button type="button" id="reset" hidden>show all
runs</button></p>
"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Section:
    """A part of the page. `missing` says why it is empty, and what to do.

    `plain` are pictures for paper, and for a browser without scripts; the page shows charts in their place.
    """

    title: str
    link: str = ""  # its title in the line of links, where that is shorter
    pictures: Sequence[Picture] = ()
    plain: Sequence[Picture] = ()
    html: str = ""
    lead: str = ""
    missing: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Page:
    """The content of a page. `top` is the HTML of its first screen, `data` the JSON for its script.

    `live` is None for a file. For a served page it is a mark of its state.
    """

    title: str
    date: str
    lead: str
    facts: Sequence[tuple[str, str]]  # a number or a few words, and what they are
    top: str
    sections: Sequence[Section]
    data: str
    live: str | None = None

    @property
    def pictures(self) -> list[Picture]:
        return [picture for section in self.sections for picture in (*section.plain, *section.pictures)]


REFRESH_SECONDS = 2.0  # between two updates of a live page


def build_page(page: Page) -> str:
    """The whole page as HTML."""
    folder = files("harness.reporting.pages")
    style, script = folder.joinpath("page.css").read_text(), folder.joinpath("page.js").read_text()
    library = folder.joinpath("vendor/echarts.min.js").read_text()
    links = "".join(
        f'<a href="#{_slug(section.title)}">{escape(section.link or section.title)}</a>' for section in page.sections
    )
    cards = "".join(f"<div><dd>{escape(value)}</dd><dt>{escape(name)}</dt></div>" for value, name in page.facts)
    body = "\n".join(_section(section) for section in page.sections)
    is_live = page.live is not None
    policy = POLICY + ("; connect-src 'self'" if is_live else "")
    seen = (
        f' data-seen="{escape(page.live, quote=True)}" data-every="{REFRESH_SECONDS * 1000:.0f}"' if page.live else ""
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="date" content="{escape(page.date, quote=True)}">
<link rel="icon" href="data:,">
<title>{escape(page.title)}</title>
<style>
{style}</style>
</head>
<body{seen}>
<header id="summary">
<h1>{escape(page.title)}{' <span id="live">live</span>' if is_live else ""}</h1>
<p>{escape(page.lead)}</p>
<dl class="facts">{cards}</dl>
{page.top}
</header>
<nav id="links" aria-label="Sections">{links}</nav>
<main id="main">
{body}
</main>
<dialog id="card" aria-labelledby="card-title"><form method="dialog"><button aria-label="close">&times;</button></form>
<h2 id="card-title"></h2><div id="card-facts"></div></dialog>
<script type="application/json" id="data">{page.data}</script>
<script>{library}</script>
<script>{script}</script>
</body>
</html>
"""


def curves_html(metrics: Sequence[str], objective: str) -> str:
    """Two charts of learning curves, each with a choice of what it shows."""
    second = next(
        (name for name in ("val_loss", "train_loss", "lr") if name in metrics and name != objective), objective
    )

    def chart(side: str, chosen: str) -> str:
        options = "".join(
            f'<option value="{escape(name, quote=True)}"{" selected" if name == chosen else ""}>{escape(name)}</option>'
            for name in metrics
        )
        return (
            f'<div><select id="metric-{side}" aria-label="metric">{options}</select>'
            f'<div class="curve" id="curves-{side}"></div></div>'
        )

    return (
        f'<div class="chart pair">{chart("left", objective)}{chart("right", second)}</div>'
        '<div class="chart" id="legend"></div>'
    )


def text_table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, words: Sequence[int] = ()) -> str:
    """A table of texts; the columns at the places `words` hold words, the others numbers."""
    kinds = [' class="text"' if place in words else "" for place in range(len(heads))]
    made = [
        f"<tr>{''.join(f'<td{kind}>{escape(text)}</td>' for kind, text in zip(kinds, row, strict=True))}</tr>"
        for row in rows
    ]
    return _table(heads, made, words=words)


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
    plain = "".join(_figure(picture, alone=picture.title == section.title) for picture in section.plain)
    plain = f'<div class="plain">{plain}</div>' if plain else ""
    return (
        f'<section id="{_slug(section.title)}"><h2>{escape(section.title)}</h2>'
        f"{lead}{missing}{section.html}{plain}{pictures}</section>"
    )


def _figure(picture: Picture, *, alone: bool) -> str:
    title = "" if alone else f"<h3>{escape(picture.title)}</h3>"
    return (
        f'<figure id="picture-{picture.name}" class="{picture.name}">{title}<div class="drawn">{picture.svg}</div>'
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
    )


def _slug(title: str) -> str:
    return title.lower().replace(" ", "-").replace(",", "").replace("?", "")
