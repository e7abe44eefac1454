"""What is kept, and in which tables: an operation as a row, and how an older store becomes a newer one."""

import secrets
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import sqlalchemy as sql
from sqlalchemy import Column, Connection, MetaData, Table, UniqueConstraint

from yandexart_grpc.errors import ConfigurationError
from yandexart_grpc.request import ImageRequest, folded
from yandexart_grpc.server import allowance
from yandexart_grpc.stubs import ImageGenerationRequest, ImageGenerationResponse, Status


class State(IntEnum):
    """How far an operation is; it only ever grows."""

    ACCEPTED = 0
    RUNNING = 1
    DONE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One operation. Times are seconds since the epoch."""

    id: str
    caller: str
    key: str | None
    """What the caller calls it: unique for each caller."""
    request: ImageRequest
    state: State
    created: float
    started: float | None = None
    """When the backend was called last."""
    ended: float | None = None
    expires: float | None = None
    """When it is forgotten; known once it is done."""
    attempts: int = 0
    """How often the backend was called."""
    charged: bool = False
    """Whether the backend that was called takes money."""
    upstream: str = ""
    """Under which id the backend can find it again."""
    rank: int = 0
    """Who has the lower one goes first. A caller's orders have one after another, so that none is behind all of a burst."""
    warnings: tuple[str, ...] = ()
    """What was asked for and is not in the picture, a line each."""
    trace: str = ""
    """Where it belongs in a trace, as W3C Trace Context writes `traceparent`; empty where nobody traces."""
    outcome: ImageGenerationResponse | Status | None = None
    """The picture or the error, once the state is DONE."""


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A small picture, and what is known of the large one."""

    width: int
    """Pixels of the large one."""
    height: int
    image: bytes
    """A JPEG."""


_METADATA = MetaData()
_STORE = Table(
    "store",
    _METADATA,
    Column("id", sql.String(32), primary_key=True),
    Column("version", sql.Integer, nullable=False),
)
OPERATIONS = Table(
    "operations",
    _METADATA,
    Column("id", sql.String(50), primary_key=True),
    Column("caller", sql.String(255), nullable=False),
    Column("key", sql.String(255)),
    Column("state", sql.SmallInteger, nullable=False, index=True),
    Column("created", sql.Double, nullable=False),
    Column("started", sql.Double),
    Column("ended", sql.Double),
    Column("expires", sql.Double, index=True),
    Column("attempts", sql.Integer, nullable=False),
    Column("charged", sql.Boolean, nullable=False),
    Column("upstream", sql.String(255), nullable=False),
    Column("warnings", sql.Text, nullable=False),
    Column("request", sql.LargeBinary, nullable=False),
    Column("rank", sql.Integer, nullable=False, server_default="0"),
    Column("trace", sql.String(55), nullable=False, server_default=""),
    Column("error", sql.LargeBinary),
    Column("response", sql.LargeBinary),
    UniqueConstraint("caller", "key"),
)
PROMPTS = Table(
    "prompts",
    _METADATA,
    Column("operation", sql.ForeignKey(OPERATIONS.c.id, ondelete="CASCADE"), primary_key=True),
    Column("words", sql.Text, nullable=False),
)
"""The prompts as they are searched. In the table of operations they would lie behind the pictures, which SQLite reads first."""
THUMBNAILS = Table(
    "thumbnails",
    _METADATA,
    Column("operation", sql.ForeignKey(OPERATIONS.c.id, ondelete="CASCADE"), primary_key=True),
    Column("width", sql.Integer, nullable=False),
    Column("height", sql.Integer, nullable=False),
    Column("image", sql.LargeBinary, nullable=False),
)
"""Small pictures, and the pixels of the large ones."""
IS_WAITING = OPERATIONS.c.state == sql.literal_column(str(int(State.ACCEPTED)))
_LINES = (
    sql.Index("waiting", OPERATIONS.c.rank, sqlite_where=IS_WAITING, postgresql_where=IS_WAITING),
    sql.Index("waiting_of_caller", OPERATIONS.c.caller, OPERATIONS.c.rank, sqlite_where=IS_WAITING, postgresql_where=IS_WAITING),
)
_LISTS = (
    sql.Index("listed", OPERATIONS.c.created, OPERATIONS.c.id),
    sql.Index("listed_of_caller", OPERATIONS.c.caller, OPERATIONS.c.created, OPERATIONS.c.id),
    sql.Index("ended", OPERATIONS.c.ended),
)


def _rank(connection: Connection) -> None:
    """Add what the first version of the schema had not."""
    allowance.create(connection)
    if "rank" not in {column["name"] for column in sql.inspect(connection).get_columns(OPERATIONS.name)}:
        connection.execute(sql.text("ALTER TABLE operations ADD COLUMN rank INTEGER DEFAULT 0 NOT NULL"))
    for line in _LINES:
        line.create(connection, checkfirst=True)


def _trace(connection: Connection) -> None:
    """Add what the third version had not."""
    if "trace" not in {column["name"] for column in sql.inspect(connection).get_columns(OPERATIONS.name)}:
        connection.execute(sql.text("ALTER TABLE operations ADD COLUMN trace VARCHAR(55) DEFAULT '' NOT NULL"))


def _lists(connection: Connection) -> None:
    """Add what lists need, which the fourth version had not."""
    _METADATA.create_all(connection, [PROMPTS, THUMBNAILS])
    for index in _LISTS:
        index.create(connection, checkfirst=True)
    known = sql.select(PROMPTS.c.operation)
    for found in connection.execute(sql.select(OPERATIONS.c.id, OPERATIONS.c.request).where(OPERATIONS.c.id.not_in(known))).all():
        connection.execute(PROMPTS.insert().values(words_of(found.id, request_of(found.request))))


_STEPS = (_METADATA.create_all, _rank, allowance.READS.create, _trace, _lists)
"""What brings a store from one version of the schema to the next; a new one has version 0."""


def migrate(connection: Connection, url: str) -> str:
    """Bring the schema up to date, and return the id of the store. Raises `ConfigurationError` where a newer version wrote it."""
    is_new = not sql.inspect(connection).has_table(_STORE.name)
    store_id, version = (secrets.token_hex(16), 0) if is_new else connection.execute(sql.select(_STORE)).one()
    if version > len(_STEPS):
        raise ConfigurationError(f"store: {url!r} has schema {version}, and this version knows up to {len(_STEPS)}")
    for step in _STEPS[version:]:
        step(connection)
    if version < len(_STEPS):
        connection.execute(_STORE.delete())
        connection.execute(_STORE.insert().values(id=store_id, version=len(_STEPS)))
    return str(store_id)


def require_current(connection: Connection, url: str) -> None:
    """Raise `ConfigurationError` unless the schema is the one of this version."""
    if not sql.inspect(connection).has_table(_STORE.name):
        raise ConfigurationError(f"store: {url!r} holds no operations; a server makes it when it starts")
    version = connection.scalars(sql.select(_STORE.c.version)).one()
    if version != len(_STEPS):
        todo = "take a newer version" if version > len(_STEPS) else "start a server of this version on it once"
        raise ConfigurationError(f"store: {url!r} has schema {version}, and this version reads {len(_STEPS)}; {todo}")


def words_of(operation_id: str, request: ImageRequest) -> dict[str, str]:
    """The columns of a prompt."""
    return {"operation": operation_id, "words": folded("\n".join(message.text for message in request.messages))}


def values(row: Row) -> dict[str, Any]:
    """The columns of an operation."""
    return {
        "id": row.id,
        "caller": row.caller,
        "key": row.key,
        "state": row.state,
        "created": row.created,
        "started": row.started,
        "ended": row.ended,
        "expires": row.expires,
        "attempts": row.attempts,
        "charged": row.charged,
        "upstream": row.upstream,
        "rank": row.rank,
        "trace": row.trace,
        "warnings": "\n".join(row.warnings),
        "request": row.request.to_proto().SerializeToString(),
        "error": row.outcome.SerializeToString() if isinstance(row.outcome, Status) else None,
        "response": row.outcome.SerializeToString() if isinstance(row.outcome, ImageGenerationResponse) else None,
    }


def row_of(found: sql.Row[Any]) -> Row:
    """The operation in what was found."""
    outcome: ImageGenerationResponse | Status | None = None
    if found.error is not None:
        outcome = Status.FromString(found.error)
    elif found.response is not None:
        outcome = ImageGenerationResponse.FromString(found.response)
    return Row(
        id=found.id,
        caller=found.caller,
        key=found.key,
        request=request_of(found.request),
        state=State(found.state),
        created=found.created,
        started=found.started,
        ended=found.ended,
        expires=found.expires,
        attempts=found.attempts,
        charged=found.charged,
        upstream=found.upstream,
        rank=found.rank,
        trace=found.trace,
        warnings=tuple(found.warnings.splitlines()),
        outcome=outcome,
    )


def request_of(kept: bytes) -> ImageRequest:
    """The request in a column."""
    return ImageRequest.from_proto(ImageGenerationRequest.FromString(kept))
