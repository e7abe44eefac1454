"""A contact sheet as one HTML file: it needs no network and no script, and can be printed."""

import base64
import html
import os
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

from yandexart_grpc.cli.tiles import UNKNOWN, Tile

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #666; }
@media (prefers-color-scheme: dark) { :root { --soft: #aaa; } }
body { font: 14px/1.4 system-ui, sans-serif; margin: 1.5rem; }
h1 { font-size: 1.3rem; margin: 0; }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); gap: 1.5rem; margin-top: 1.5rem; }
figure { margin: 0; break-inside: avoid; border-top: 1px solid var(--line); padding-top: .75rem; overflow-wrap: anywhere; }
img { display: block; width: 100%; height: auto; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 .6rem; margin: .5rem 0 0; }
dt, .unknown, .soft { color: var(--soft); }
dd { margin: 0; white-space: pre-wrap; }
code { display: block; margin-top: .5rem; padding: .4rem; border: 1px solid var(--line); }
code { white-space: pre-wrap; user-select: all; }
@media print {
  body { margin: 0; }
  main { grid-template-columns: repeat(3, 1fr); gap: .75rem; }
  figure { font-size: 8pt; }
}
"""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(tiles: Iterable[Tile], title: str, file: Path) -> str:
    """The page of these tiles, for that file: links to the pictures lead there from its folder."""
    figures = [_figure(tile, quote(os.fsencode(os.path.relpath(tile.path, file.parent)))) for tile in tiles]
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width">
<title>{html.escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{html.escape(title)}</h1>
<p class="soft">{len(figures)} pictures, each a link to its file. Commands take address and credential from the environment.</p>
<main>
{"".join(figures)}</main>
</body>
</html>
"""


def _figure(tile: Tile, link: str) -> str:
    facts = tile.facts()
    again = facts.pop("again")
    shown = facts | {"file": f"{tile.path.name}, {tile.size[0]}x{tile.size[1]}"}
    rows = "".join(f"<dt>{name}</dt><dd{_class(value)}>{html.escape(value)}</dd>" for name, value in shown.items())
    command = f"<code>{html.escape(again)}</code>" if again != UNKNOWN else '<p class="unknown">No command makes it again.</p>'
    remark = f'<p class="soft">{html.escape(tile.remark())}</p>' if tile.remark() else ""
    data = base64.b64encode(tile.small).decode()
    alt = html.escape(facts["prompt"])
    return f"""<figure>
<a href="./{link}"><img src="data:image/jpeg;base64,{data}" alt="{alt}"></a>
<figcaption><dl>{rows}</dl>{command}{remark}</figcaption>
</figure>
"""


def _class(value: str) -> str:
    return ' class="unknown"' if value == UNKNOWN else ""
