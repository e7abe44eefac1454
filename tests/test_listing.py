"""What a store lists: operations without their pictures, for the page and for whoever reads a store beside its server."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sql
from sqlalchemy.dialects import sqlite

from tests.doors import PICTURE
from tests.test_durability import Scripted, content_of, entry, server
from yandexart_grpc import ConfigurationError, stubs
from yandexart_grpc.request import ImageRequest, Message
from yandexart_grpc.server.listing import query_of
from yandexart_grpc.server.store import Listed, Row, Selection, State, Store, listed_in, open_store

ANSWER = stubs.ImageGenerationResponse(image=PICTURE)
REFUSAL = stubs.Status(code=3, message="no")
DONE: dict[str, Any] = {"state": State.DONE, "started": 2.0, "ended": 3.0, "expires": 1e12}


def asking(number: int, prompt: str, **fields: Any) -> Row:
    """An operation with that prompt."""
    return entry(number, request=ImageRequest(messages=(Message(prompt),), model_uri="art://f/m"), **fields)


@pytest.fixture
async def kept(store: str) -> AsyncIterator[Store]:
    """A store of either kind."""
    async with open_store(store) as opened:
        yield opened


async def ids(kept: Store, **selected: Any) -> list[str]:
    """The ids of what is listed."""
    return [one.id for one in await kept.listed(Selection(**selected))]


class TestList:
    """What is selected, and in which order."""

    async def test_an_operation_is_listed_as_it_is(self, kept: Store) -> None:
        """With everything but its picture."""
        row = entry(1, caller="anna", **DONE, attempts=1, charged=True, warnings=("no seed",), outcome=ANSWER)
        await kept.accept(row)
        (found,) = await kept.listed(Selection())
        assert found == Listed.of(row)
        assert (found.kind, found.caller, found.request, found.place) == ("done", "anna", row.request, (1.0, "id1"))

    async def test_the_newest_comes_first_and_pages_follow_each_other(self, kept: Store) -> None:
        """Also where many were accepted in one moment, and more come meanwhile."""
        for number in range(20):
            await kept.accept(entry(number, created=float(number // 7)))
        seen, before = list[str](), None
        while page := await kept.listed(Selection(before=before, limit=3)):
            seen += [one.id for one in page]
            before = page[-1].place
            await kept.accept(entry(100 + len(seen), created=50.0))
        expected = sorted(((number // 7, f"id{number}") for number in range(20)), reverse=True)
        assert seen == [name for _, name in expected]

    async def test_a_caller_sees_his_own(self, kept: Store) -> None:
        """And nobody's where he has none; who has no name is a caller like the others."""
        for number, caller in enumerate(["anna", "ben", "", "anna"]):
            await kept.accept(entry(number, caller=caller))
        assert await ids(kept, caller="anna") == ["id3", "id0"]
        assert await ids(kept, caller="") == ["id2"]
        assert await ids(kept, caller="carl") == []
        assert await ids(kept) == ["id3", "id2", "id1", "id0"]

    async def test_each_kind_is_listed_alone(self, kept: Store) -> None:
        """An operation is of one kind at a time."""
        await kept.accept(entry(1))
        await kept.accept(entry(2, state=State.RUNNING, started=2.0))
        await kept.accept(entry(3, **DONE, outcome=ANSWER))
        await kept.accept(entry(4, **DONE, outcome=REFUSAL))
        assert {kind: await ids(kept, kind=kind) for kind in ("accepted", "running", "done", "failed")} == {
            "accepted": ["id1"],
            "running": ["id2"],
            "done": ["id3"],
            "failed": ["id4"],
        }
        (failed,) = await kept.listed(Selection(kind="failed"))
        assert failed.error == REFUSAL

    @pytest.mark.parametrize(
        ("prompt", "search"),
        [
            ("A Red Cat", "red CAT"),
            ("Рыжий КОТ на окне", "рыжий кот"),
            ("рыжий кот", "КОТ"),
            ("cafe\u0301", "CAFÉ"),
            ("Straße", "STRASSE"),
            ("100% wool", "0% W"),
            ("snake_case", "E_C"),
            ("back\\slash", "k\\s"),
            ("nul\0in it", "nulin"),
            ("'; DROP TABLE operations; --", "'; drop table"),
            ("a 🐈", "🐈"),
        ],
    )
    async def test_a_search_knows_no_case(self, kept: Store, prompt: str, search: str) -> None:
        """In any alphabet, and each of its characters means itself."""
        await kept.accept(asking(1, prompt))
        await kept.accept(asking(2, "another"))
        assert await ids(kept, search=search) == ["id1"]

    async def test_a_search_goes_through_all_texts_and_ids(self, kept: Store) -> None:
        """A text of negative weight too; an id is found as a whole."""
        request = ImageRequest(messages=(Message("cat"), Message("rain", -1)), model_uri="art://f/m")
        await kept.accept(entry(1, request=request))
        await kept.accept(entry(22))
        assert await ids(kept, search="rain") == ["id1"]
        assert await ids(kept, search=" id22 ") == ["id22"]
        assert await ids(kept, search="id2") == []
        assert await ids(kept, search="%") == []

    async def test_what_has_expired_is_not_listed(self, kept: Store) -> None:
        """Nor is anything left of it once it is removed."""
        await kept.accept(entry(1, **(DONE | {"expires": 4.0}), outcome=ANSWER))
        assert await ids(kept) == []
        assert await kept.purge(5.0) == 1
        left = "SELECT (SELECT count(*) FROM prompts) + (SELECT count(*) FROM thumbnails)"
        assert await kept._do(lambda connection: connection.scalar(sql.text(left))) == 0

    async def test_nothing_of_a_picture_is_read(self, file: str) -> None:
        """A list of 40 pictures of 2 MB costs less than one of them; SQLite counts what it reads."""
        answer = stubs.ImageGenerationResponse(image=bytes(2_000_000))
        async with open_store(file) as opened:
            for number in range(40):
                await opened.accept(entry(number, **DONE, outcome=answer))
        with contextlib.closing(sqlite3.connect(file.removeprefix("sqlite:///"))) as connection:
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
        assert pages > 10_000
        before = _bytes_read()
        assert len(listed_in(file, Selection(search="cat"))) == 40
        assert _bytes_read() - before < 2_000_000

    @pytest.mark.parametrize("selection", [Selection(), Selection(caller="anna"), Selection(search="cat", before=(1.0, "id1"))])
    async def test_an_index_gives_the_order(self, selection: Selection) -> None:
        """SQLite sorts nothing and looks at no more than it lists, so that a page of 10,000 costs what one of 100 does."""
        query = str(query_of(selection, 0.0).compile(dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True}))
        async with open_store("sqlite://") as opened:
            plan = await opened._do(lambda connection: connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}").all())
        told = [line[-1] for line in plan]
        assert "USING INDEX listed" in told[0]
        assert not any("TEMP B-TREE" in line for line in told)


def _bytes_read() -> int:
    """What this process has had read from files so far, from a disk or not."""
    return int(dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())["rchar"])


class TestReader:
    """A store is read beside the server that has it."""

    async def test_it_is_read_while_it_is_served(self, store: str) -> None:
        """No lock is asked for, and what comes is seen at the next look."""
        backend = Scripted()
        async with server(backend, store=store) as caller:
            assert await asyncio.to_thread(listed_in, store, Selection()) == []
            first = await caller.submit()
            await backend.begun.wait()
            (found,) = await asyncio.to_thread(listed_in, store, Selection())
            assert (found.id, found.kind) == (first, "running")
            second = await caller.submit()
            assert [one.id for one in await asyncio.to_thread(listed_in, store, Selection())] == [second, first]

    async def test_it_changes_nothing(self, file: str) -> None:
        """Not one byte."""
        async with open_store(file) as opened:
            await opened.accept(entry(1))
        before = content_of(file)
        assert [one.id for one in listed_in(file, Selection())] == ["id1"]
        assert content_of(file) == before

    @pytest.mark.parametrize(
        ("version", "words"),
        [
            (3, "has schema 3, and this version reads 4; start a server of this"),
            (1000, "has schema 1000, .*; take a newer version"),
        ],
    )
    async def test_another_schema_is_refused(self, store: str, version: int, words: str) -> None:
        """It says what to do, and migrates nothing."""
        async with open_store(store) as opened:
            await opened._do(lambda connection: connection.exec_driver_sql(f"UPDATE store SET version = {version}"))
        for _ in range(2):
            with pytest.raises(ConfigurationError, match=words):
                listed_in(store, Selection())

    def test_what_is_no_store_is_refused(self, tmp_path: Path, postgres: Any) -> None:
        """A file that is not there is not made, and an empty database says that it is one."""
        with pytest.raises(ConfigurationError, match="is no file"):
            listed_in(f"sqlite:///{tmp_path}/none.db", Selection())
        assert not list(tmp_path.iterdir())
        sqlite3.connect(tmp_path / "empty.db").close()
        for url in (f"sqlite:///{tmp_path}/empty.db", postgres.database()):
            with pytest.raises(ConfigurationError, match="holds no operations"):
                listed_in(url, Selection())

    async def test_an_older_store_learns_it(self, store: str) -> None:
        """The prompts that the third version of the schema has are searched, and what it holds is kept."""
        async with open_store(store) as opened:
            await opened.accept(asking(1, "Рыжий кот"))
            row = await opened.get("id1")
            drops = ["DROP TABLE prompts", "DROP TABLE thumbnails", *(f"DROP INDEX {x}" for x in ("listed", "ended"))]
            for script in (*drops, "DROP INDEX listed_of_caller", "UPDATE store SET version = 3"):
                await opened._do(lambda connection, script=script: connection.exec_driver_sql(script))  # type: ignore[misc]
        async with open_store(store) as opened:
            assert await opened.get("id1") == row
            await opened.accept(asking(2, "кот"))
            assert await ids(opened, search="КОТ") == ["id2", "id1"]
            assert row
            assert await opened.advance(replace(row, state=State.RUNNING), before=State.ACCEPTED)
