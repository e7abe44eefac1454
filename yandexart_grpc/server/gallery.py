"""What is shown of operations beside the contract: lists, small pictures, quotas. A part of `operations` that changes no life."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

from yandexart_grpc.server.answers import read
from yandexart_grpc.server.callers import Caller
from yandexart_grpc.server.figures import Figures
from yandexart_grpc.server.live import Live
from yandexart_grpc.server.store import Left, Listed, Row, Selection, Store, Thumbnail
from yandexart_grpc.server.thumbnails import Thumbnails


class Gallery:
    """Shows callers what is theirs. Every method raises `Unavailable` where the store cannot be read."""

    def __init__(self, store: Store, get: Callable[[str, Caller], Awaitable[Row]]) -> None:
        """`get` finds an operation of a caller, or raises `NotFound`."""
        self._store = store
        self._get = get
        self._thumbnails = Thumbnails(store)
        self.figures = Figures()
        """Hears of operations, as `live` does."""
        self.live = Live(None if store.unheard is None else self.changed)

    async def listed(self, selection: Selection, caller: Caller) -> list[Listed]:
        """The caller's newest operations of a selection, newest first."""
        return await read(self._store.listed(replace(selection, caller=caller.name)))

    async def changed(self, since: float, limit: int) -> list[Listed]:
        """The newest operations of all callers that something happened to after a time: for who passes each his own."""
        return await read(self._store.listed(Selection(since=since, limit=limit)))

    async def row(self, operation_id: str, caller: Caller) -> Row:
        """An operation with its picture, to be shown: that is no read by which its lag is known. Raises `NotFound`."""
        return await self._get(operation_id, caller)

    async def thumbnail(self, operation_id: str, caller: Caller) -> Thumbnail:
        """The small picture of an operation. Raises `NotFound`, also where there is none."""
        return await read(self._thumbnails.of(operation_id, caller.name, lambda: self._get(operation_id, caller)))

    async def left(self, caller: Caller, folder: str = "") -> list[Left]:
        """What is left of the quota of the caller's folder, or of the one that he names; of all, where nobody needs a key."""
        left = await read(self._store.left())
        return left if not caller.name else [one for one in left if one.folder == (caller.folder or folder)]
