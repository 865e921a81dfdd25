"""The report as one HTML file: nothing beside it, no script; Jinja2 escapes every text."""

from __future__ import annotations

import base64
import re
from pathlib import Path

from cm3leon.reports.paper.figures import BLUE, FAINT, GREY, INK
from cm3leon.reports.paper.model import Document, Picture, labels
from cm3leon.reports.paper.typst import long_date

TEMPLATES = Path(__file__).parents[1] / "templates"
THEMED = {  # colours of plots that follow the page
    INK: "var(--ink)",
    GREY: "var(--grey)",
    FAINT: "var(--faint)",
    BLUE.lower(): "var(--plot)",
}


def to_html(document: Document) -> str:
    """One self-contained page."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True,
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.tests["block"] = lambda block, kind: type(block).__name__ == kind
    return environment.get_template("paper.html").render(
        document=document,
        date=long_date(document.date),
        names=labels(document),
        cited={key: place + 1 for place, (key, _) in enumerate(document.references)},
        image=image,
    )


def image(picture: Picture):
    """The picture's element: an SVG in line, in the page's colours, or a JPEG as data."""
    from markupsafe import Markup

    if picture.file.endswith(".svg"):
        return Markup(inline_svg(picture))
    data = base64.b64encode(picture.data).decode()
    tag = '<img src="data:image/jpeg;base64,{}" alt="{}" loading="lazy">'
    return Markup(tag).format(Markup(data), picture.alt)


def inline_svg(picture: Picture) -> str:
    """Matplotlib's SVG without prolog and comments, its ids made the picture's own."""
    from markupsafe import escape

    text = picture.data.decode()
    text = re.sub(r"<!--.*?-->|<\?xml.*?\?>|<!DOCTYPE.*?>|<metadata>.*?</metadata>", "", text,
                  flags=re.DOTALL)  # fmt: skip
    stem = picture.file.removesuffix(".svg")
    text = re.sub(r'\bid="', f'id="{stem}-', text)
    text = re.sub(r'href="#', f'href="#{stem}-', text)
    text = text.replace("url(#", f"url(#{stem}-")
    for colour, variable in THEMED.items():
        text = text.replace(colour, variable)
    head = f'<svg role="img" aria-label="{escape(picture.alt)}" fill="currentColor" '
    return text.strip().replace("<svg ", head, 1)
