"""README, CONTRIBUTING and the pages of docs/: what they claim, besides that their examples run."""

import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import click
import psycopg
import pytest
import yaml
from grpc import StatusCode

import yandexart_grpc
from tests.documents import DATA, DOCUMENTS, ELSEWHERE, LANGUAGES, PAGES, PROGRAMS, ROOT, blocks_of, commands_in, parsed, prose
from tests.foreign import Answer, Foreign, failed, refused
from tests.images_upstream import REFUSAL
from tests.postgres import Postgres
from yandexart_grpc import YandexArt, YandexArtError, auth, batch, server, stubs
from yandexart_grpc.cli.app import yandexart
from yandexart_grpc.errors import TABLE
from yandexart_grpc.server.store import open_store

TEXTS = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for pattern in ("*.md", "docs/**/*.md", "[!.]*/README.md", "tests/*/README.md")
    for path in sorted(ROOT.glob(pattern))
}
"""The documents of the site."""
BLOCKS = [block for name in DOCUMENTS for block in blocks_of(name)]
ERRORS = TEXTS["docs/errors.md"]


def anchors(text: str) -> list[str]:
    """What the titles of a document are called in links."""
    titles = re.findall(r"(?m)^#+ (.+)$", prose(text))
    return [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]


def table(text: str, title: str) -> list[list[str]]:
    """The cells of the first table below a title, without those of its head."""
    lines = text.partition(f"\n## {title}\n")[2].splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("|---"))
    rows = []
    for line in lines[first + 1 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return rows


class TestForm:
    """What holds for each document."""

    def test_each_block_is_in_a_language_that_is_tested(self) -> None:
        """No block escapes because nobody knows what it is, or where it ends."""
        assert [name for name, text in TEXTS.items() if "```" in prose(text)] == []
        assert {block.document for block in BLOCKS if block.language in ELSEWHERE} <= {"docs/languages.md"}
        assert [f"{block.document}:{block.line}: {block.language!r}" for block in BLOCKS if block.language not in LANGUAGES] == []

    @pytest.mark.parametrize("name", TEXTS)
    def test_there_is_one_title(self, name: str) -> None:
        """A page has one title of the first order, no level is left out below it, and no two have the same name."""
        levels = [len(marks) for marks in re.findall(r"(?m)^(#+) ", prose(TEXTS[name]))]
        assert levels.count(1) == 1
        assert levels[0] == 1
        assert all(after <= before + 1 for before, after in pairwise(levels))
        if name != "CHANGELOG.md":  # where each version has the same
            assert [title for title, number in Counter(anchors(TEXTS[name])).items() if number > 1] == []

    @pytest.mark.parametrize("name", TEXTS)
    def test_links_lead_somewhere(self, name: str) -> None:
        """Each relative link is a file, and its fragment a title in it."""
        for target, fragment in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", prose(TEXTS[name])):
            path = (ROOT / name).parent / target if target else ROOT / name
            assert path.is_file(), target
            assert not fragment or fragment in anchors(path.read_text()), f"{target}#{fragment}"

    def test_every_page_is_in_the_navigation(self) -> None:
        """The site leads to each page, once, and each page of docs/ can be reached from the README as well."""

        def leaves(entry: object) -> Iterator[str]:
            if isinstance(entry, str):
                yield entry
            else:
                for part in entry.values() if isinstance(entry, dict) else entry:  # type: ignore[attr-defined]
                    yield from leaves(part)

        shown = list(leaves(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
        assert sorted(shown) == sorted(TEXTS)
        assert [page for page in PAGES if f"]({page}" not in TEXTS["README.md"]] == []

    @pytest.mark.parametrize("language", DATA)
    def test_data_is_what_it_says(self, language: str) -> None:
        """Each block of data can be read."""
        for block in BLOCKS:
            if block.language == language:
                DATA[language](block.code)

    async def test_queries_are_understood(self, postgres: Postgres) -> None:
        """Each statement is one that PostgreSQL takes on the tables of a store."""
        url = postgres.database()
        async with open_store(url):
            pass
        with psycopg.connect(url) as connection:
            for block in BLOCKS:
                for statement in re.sub("--.*", "", block.code if block.language == "sql" else "").split(";")[:-1]:
                    connection.execute(f"EXPLAIN {statement}".encode())

    @pytest.mark.parametrize("name", [name for name in DOCUMENTS if name != "docs/cli.md"])  # that is written from the commands
    def test_commands_are_ours(self, name: str) -> None:
        """Each command of ours is one, and each option that is told alone is one of ours."""
        spans = re.findall(r"`([^`\n]+)`", prose(TEXTS[name]))
        texts = [block.code for block in BLOCKS if block.document == name and block.language == "text"]
        for text in (*texts, *(span for span in spans if span.startswith("yandexart serve "))):
            for words in commands_in(text):
                parsed(words)
        told = {re.split("[ =]", span)[0] for span in spans if span.startswith("--")}
        assert told - set(options_of(yandexart)) <= {"--help"}


def options_of(command: click.Command) -> Iterator[str]:
    """Every option of a command and of those below it."""
    for parameter in command.params:
        yield from parameter.opts
    for below in command.commands.values() if isinstance(command, click.Group) else ():
        yield from options_of(below)


class TestExamples:
    """What examples there are."""

    @pytest.mark.parametrize("page", ["sync", "async", "commands", "batch", "live", "credentials", "money", "server", "doors"])
    def test_a_need_has_an_example_that_is_read_at_a_glance(self, page: str) -> None:
        """Each page about something to do begins with a program of at most fifteen lines."""
        first = next(block for block in BLOCKS if block.document == f"docs/{page}.md" and block.language in PROGRAMS)
        assert first.code.count("\n") <= 15


class TestTables:
    """What the code knows as well."""

    def test_the_table_of_errors_is_the_table(self) -> None:
        """Each error stands there with its codes, HTTP statuses and exit code."""
        expected = []
        for error in dict.fromkeys(row.error for row in TABLE):
            mine = [row for row in TABLE if row.error is error]
            statuses = dict.fromkeys(str(row.http) for row in mine)
            expected.append(
                [f"`{error.__name__}`", ", ".join(row.code.name for row in mine), ", ".join(statuses), str(mine[0].exit)]
            )
        assert [[name, *rest] for name, _, *rest in table(ERRORS, "By class")] == expected

    def test_what_to_do_is_told_of_each_error(self) -> None:
        """Each stands there with what it says of the money where nothing else is known."""
        expected = []
        for error in dict.fromkeys(row.error for row in TABLE):
            known = error("it failed")
            expected.append([f"`{error.__name__}`", known.billed, known.resend])
        assert [row[:3] for row in table(ERRORS, "What to do")] == expected

    def test_what_becomes_of_a_code_is_what_the_client_makes_of_it(self) -> None:
        """Each code stands there with what the client raises when an order, a read or an operation ends with it."""

        def raised(*, generate: Answer | None = None, read: Answer | None = None) -> str:
            server = Foreign(generate=[generate] if generate else [], reads=[read] if read else [], image=b"no picture")
            try:
                with YandexArt(endpoint=server.listen(), folder_id="b1g") as art:
                    try:
                        if generate:
                            art.submit("a red cat")
                        art.operation(server.bought()).result()
                    except YandexArtError as error:
                        again = not generate and len(server.reads) > 1
                        return "asked again" if again else f"`{type(error).__name__}`, {error.billed}"
            finally:
                server.close()
            raise AssertionError("nothing was raised")

        def expected(code: StatusCode, words: str) -> list[str]:
            order = raised(generate=refused(code, words))
            return [f"`{code.name}`", order, raised(read=refused(code, words)), raised(read=failed(code.value[0], words))]

        rows = [expected(code, "quota of the day") for code in StatusCode if code is not StatusCode.OK]
        at = next(number for number, row in enumerate(rows) if row[0] == "`INVALID_ARGUMENT`")
        rows.insert(at + 1, expected(StatusCode.INVALID_ARGUMENT, REFUSAL))
        assert [[code, *rest] for code, _, *rest in table(ERRORS, "By code")] == rows

    def test_every_public_name_is_in_the_reference(self) -> None:
        """Those of the package, of batches and of the server, the kinds of credentials, and the stubs."""
        shown = set(re.findall(r"(?m)^::: (\S+)$", TEXTS["docs/reference.md"]))
        public = {
            f"{module.__name__}.{name}" for module in (yandexart_grpc, batch, server) for name in module.__all__ if name[0] != "_"
        }
        kinds = {name for name in shown - public if name.startswith("yandexart_grpc.auth.")}
        assert shown - kinds - {"yandexart_grpc.stubs"} == public
        assert all(hasattr(auth, name.rpartition(".")[2]) for name in kinds)
        assert {one for text in TEXTS.values() for one in re.findall(r"from yandexart_grpc\.auth import (\w+)", text)} <= {
            name.rpartition(".")[2] for name in kinds
        }
        names = TEXTS["docs/reference.md"].partition("The names:")[2]
        assert re.findall(r"`(\w+)`", names) == stubs.__all__


class TestReadme:
    """The page that is read first."""

    def test_it_is_short(self) -> None:
        """It can be read in a few minutes."""
        assert len(TEXTS["README.md"].splitlines()) <= 200

    def test_what_it_tells_to_type_exists(self) -> None:
        """The targets of make are targets, and the extras to install are extras."""
        targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text()))
        assert {target for text in TEXTS.values() for target in re.findall(r"(?:^|`)make ([a-z-]+)", text)} <= targets
        extras = set(re.findall(r"(?m)^([a-z]+) = \[", (ROOT / "pyproject.toml").read_text()))
        assert {extra for text in TEXTS.values() for extra in re.findall(r"[`'.]\[([a-z]+)\][`']", text)} <= extras
