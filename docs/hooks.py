"""What `make docs` does beside mkdocs: the site has the files of the repository under their own paths, and loads nothing else."""

import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
SHOWN = ("*.md", "LICENSE", "docs/*.css", "docs/images/*", "deploy/*", "examples/*", "proto/**/*.proto")
"""What pages are made of, and what they link to."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Let every file stand where it does in the repository, so that a link leads to the same there and on the site."""
    asked = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *SHOWN]
    names = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    of_theme = [file for file in files if file.src_dir != config.docs_dir]
    return Files([*of_theme, *(File.generated(config, name, abs_src_path=str(ROOT / name)) for name in names)])


class Loads(HTMLParser):
    """The addresses of what a browser loads by itself to show a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        source = given.get("href") if tag == "link" and given.get("rel") != "canonical" else given.get("src")
        self.found += [address for address in (source, given.get("srcset")) if address]


def on_post_build(config: MkDocsConfig) -> None:
    """Fail where a page or a style sheet loads something from another host."""
    for path in sorted(Path(config.site_dir).rglob("*")):
        found = []
        if path.suffix == ".html":
            loads = Loads()
            loads.feed(path.read_text())
            found = loads.found
        elif path.suffix in (".css", ".svg"):
            found = re.findall(r"""(?:url\(|@import\s|xlink:href=|<image[^>]* href=)\s*["']?([^"')\s]+)""", path.read_text())
        if strange := [address for address in found if re.match(r"(\w+:)?//", address)]:
            raise PluginError(f"{path} loads from another host: {strange}")
