"""The backend that has pictures made by Yandex's Images API: one synchronous call for each, which knows no id and no repetition.

Decides what of a request fits into that call, and what the end of the call means for money: what was surely not ordered is
tried again for a while, what was refused ends with the words of the refusal, and whatever else may have been bought.
Facts are those of contract/service.md, "The Images API".
"""

import asyncio
import json
import re
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from fnmatch import fnmatchcase
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpx2
from grpc import StatusCode

from yandexart_grpc._otel import carried
from yandexart_grpc.errors import (
    TABLE,
    ContentRefused,
    InvalidRequest,
    OutcomeUnknown,
    QuotaExceeded,
    Unauthenticated,
    Unavailable,
    YandexArtError,
    code_of,
    row,
)
from yandexart_grpc.image import whole_jpeg
from yandexart_grpc.meaning import IMAGES_API, refuses
from yandexart_grpc.request import ImageRequest
from yandexart_grpc.server.backends.base import Upstream
from yandexart_grpc.server.backends.demo import REFUSAL, size_of
from yandexart_grpc.stubs import ImageGenerationResponse

UPSTREAM = "https://ai.api.cloud.yandex.net"
"""Where the Images API is."""
MODELS = "yandex-art*=aliceai-image-art-3.0"
"""The model that is asked instead of those that are no more."""
LARGEST_ANSWER = 64 * 2**20
"""Bytes of an answer that are read at the most."""
LONGEST_WORDS = 500
"""Characters of what the other side says that are passed on."""
RULES = ("content_policy_violation", "moderation_blocked")
"""What an OpenAI error calls a refusal by the content rules."""

_CODES = {entry.http: entry.code for entry in reversed(TABLE)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to wait for what, in seconds."""

    connect: float = 10.0
    answer: float = 180.0
    """For a whole answer. Pictures take 3 to 6 s; callers of the API wait 60 to 180 s."""
    repeat: float = 180.0
    """In which an order that was surely not accepted may be sent again."""
    pause: float = 0.5
    """Before it is sent the second time; twice as long before each that follows."""
    longest_pause: float = 10.0
    attempts: int = 4
    """How often it is sent, unless the other side says when to come back."""


class ImagesBackend:
    """Has a picture made for every request, by one call of the Images API."""

    charges, resumable = True, False

    def __init__(
        self,
        upstream: str = UPSTREAM,
        *,
        authorization: str | None = None,
        model_map: Iterable[str] = (),
        refuse: bool = False,
        patience: Patience | None = None,
    ) -> None:
        """Order at `upstream`, with the credential of each caller unless there is an `authorization` for all.

        `model_map` holds `old=new`, where `old` may be a pattern with `*`: the first that fits says which model is asked, and
        `MODELS` stands last. `refuse` says what becomes of a request for what the API cannot do: it is an error, or else that
        part is dropped with a warning.

        Raises `ValueError` that names what is wrong.
        """
        self._url = f"{_address(upstream)}/v1/images/generations"
        self._authorization = authorization
        self._models = [_pair(text) for text in (*model_map, MODELS)]
        self._refuse = refuse
        self._patience = patience or Patience()
        self._client = httpx2.AsyncClient(
            follow_redirects=False,  # the credential goes to no other address
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),  # what one caller is given is not sent for the next
            headers={"accept": "application/json", "accept-encoding": "identity"},
            timeout=httpx2.Timeout(None, connect=self._patience.connect),
            # Every order has a connection of its own: one that was kept may be closed by the other side just as the order
            # leaves, and nobody would know whether it was bought.
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=0),
        )

    async def generate(self, request: ImageRequest, upstream: Upstream) -> ImageGenerationResponse:
        """Order the picture and return it.

        Raises `OutcomeUnknown` when it may have been bought. After any other error it was not, except where the error says so.
        """
        order = self._order(request, upstream)
        deadline = time.monotonic() + self._patience.repeat
        attempt = 0
        while True:
            attempt += 1
            try:
                return await self._send(order)
            except (Unavailable, QuotaExceeded) as error:
                pause = min(self._patience.pause * 2 ** (attempt - 1), self._patience.longest_pause)
                pause = max(pause, error.retry_after or 0)
                tired = error.retry_after is None and attempt >= self._patience.attempts
                if tired or time.monotonic() + pause > deadline:
                    raise
            await asyncio.sleep(pause)

    async def close(self) -> None:
        """End the connections."""
        await self._client.aclose()

    def _order(self, request: ImageRequest, upstream: Upstream) -> "_Order":
        for problem in _unsupported(request):
            if self._refuse:
                raise InvalidRequest(problem)
            upstream.warn(problem)
        folder, _, name = request.model_uri.removeprefix("art://").partition("/")
        if not re.fullmatch(r"[\w.-]+", folder, re.ASCII):
            raise InvalidRequest("model_uri: the folder is not letters, digits, '.', '_' and '-'")
        model = next((new for old, new in self._models if fnmatchcase(name, old)), name)
        authorization = (self._authorization or upstream.authorization).strip()
        if not authorization:
            raise Unauthenticated(
                f"The {IMAGES_API} needs a credential, and the caller's is not there: none was sent with the order, or the server"
                " was started again since, which keeps none. Nothing was ordered"
            )
        if not authorization.isascii() or not authorization.isprintable():
            raise Unauthenticated("authorization: holds a character that is not printable ASCII. Nothing was ordered")
        width, height = size_of(*request.aspect_ratio)
        return _Order(request.prompt, f"art://{folder}/{model}", model, f"{width}x{height}", folder, authorization)

    async def _send(self, order: "_Order") -> ImageGenerationResponse:
        """Order once. Raises `Unavailable` and `QuotaExceeded` only where nothing was ordered."""
        call_id = str(uuid.uuid4())
        response, body = await self._call(order, call_id)
        if response.is_success:
            try:
                image = await asyncio.to_thread(_picture, body)
            except ValueError as error:
                raise _unknown(f"answered {error}", call_id) from None
            return ImageGenerationResponse(image=image, model_version=order.model_version)
        if response.is_redirect:
            raise InvalidRequest(
                f"The {IMAGES_API} answered {response.status_code}, a redirect, which is not followed: the credential goes to no"
                " other address. Is `upstream` the right one?",
                code=StatusCode.FAILED_PRECONDITION,
                billed="unknown",
            )
        code, words, is_refusal = _said(response.status_code, _parsed(body))
        words = order.without_secrets(words)
        if not response.is_client_error:
            raise _unknown(f"answered {response.status_code}: {words}", call_id)
        if is_refusal:
            raise ContentRefused(words, code=row(ContentRefused).code, details=words)
        raise _refused(code, f"The {IMAGES_API} answered {response.status_code}: {words}", _retry_after(response))

    async def _call(self, order: "_Order", call_id: str) -> tuple[httpx2.Response, bytes]:
        body = bytearray()
        try:
            async with (
                asyncio.timeout(self._patience.answer),
                self._client.stream("POST", self._url, json=order.body, headers=order.headers(call_id)) as response,
            ):
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > LARGEST_ANSWER:
                        raise _unknown(f"answered more than {LARGEST_ANSWER} bytes", call_id)
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError) as error:
            raise Unavailable(
                f"The {IMAGES_API} cannot be reached ({type(error).__name__}: {error}); nothing was ordered"
            ) from error
        except TimeoutError as error:
            raise _unknown(f"gave no whole answer within {self._patience.answer:g} s", call_id) from error
        except httpx2.HTTPError as error:
            raise _unknown(f"gave no whole answer ({type(error).__name__})", call_id) from error
        return response, bytes(body)


@dataclass(frozen=True, slots=True)
class _Order:
    """What one call says."""

    prompt: str
    model: str
    model_version: str
    size: str
    folder: str
    authorization: str

    @property
    def body(self) -> dict[str, str]:
        return {"prompt": self.prompt, "model": self.model, "size": self.size}

    def headers(self, call_id: str) -> dict[str, str]:
        known = {"authorization": self.authorization, "openai-project": self.folder, "x-client-request-id": call_id}
        return {**carried(), **known}

    def without_secrets(self, words: str) -> str:
        """What the other side says, without what it may repeat of the order. A short prompt is a word like any other."""
        for secret in (self.authorization, self.authorization.rpartition(" ")[2], self.prompt):
            if len(secret) >= 8:
                words = words.replace(secret, "…")
        return words[:LONGEST_WORDS].encode(errors="replace").decode()  # JSON may hold halves of characters


def _address(upstream: str) -> str:
    """The upstream, if it is an address of one."""
    if not re.fullmatch(r"https?://(\[[0-9a-fA-F:.]+\]|[\w.-]+)(:\d{1,5})?/?", upstream, re.ASCII):
        raise ValueError(f"upstream: {upstream!r} is neither https://host[:port] nor http://host[:port] (plaintext)")
    return upstream.rstrip("/")


def _pair(text: str) -> tuple[str, str]:
    old, _, new = text.partition("=")
    if not old or not re.fullmatch(r"[!-~]+", new):
        raise ValueError(f"model_map: {text!r} is not old=new, such as {MODELS}")
    return old, new


def _unsupported(request: ImageRequest) -> Iterable[str]:
    """What is asked for and the API cannot do, a line each."""
    weights = [weight for _, weight in request.messages]
    if any(weight < 0 for weight in weights):
        yield f"messages: the {IMAGES_API} knows no negative weight; those messages are not part of the prompt"
    if any(weight > 0 and weight != 1 for weight in weights):
        yield f"weight: the {IMAGES_API} knows no weights; all texts count alike"
    if request.seed:
        yield f"seed: the {IMAGES_API} takes none; the same request gives another picture each time"


def _picture(body: bytes) -> bytes:
    """The picture of an answer. Raises `ValueError`, which says what there is instead."""
    match _parsed(body):
        case {"data": [{"b64_json": str(text)}, *_]} if text.isascii():
            return whole_jpeg(text.encode())[0]
        case {"data": _}:
            raise ValueError("without a picture")
        case None:
            raise ValueError("what is no JSON")
    raise ValueError("something else than a picture")


def _parsed(body: bytes) -> Any:
    """The JSON of an answer; None where it is none."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _said(status: int, answer: Any) -> tuple[StatusCode, str, bool]:
    """What an error says, in each of the three shapes that there are: code, words, and whether the content rules refuse."""
    number: object = None
    kind: object = None
    match answer:
        case {"error": {"message": str(words)} as error}:
            number, kind = error.get("grpcCode"), error.get("code") or error.get("type")
        case {"message": str(words)} | {"error": str(words)}:
            number = answer.get("code")
        case _:
            words = "no error of the service; is `upstream` the right address?"
    if type(number) is int and 0 < number < len(StatusCode):  # a bool is an int too
        code = code_of(number)
    else:
        code = _CODES.get(status, StatusCode.INVALID_ARGUMENT)
    if refuses(words):
        return code, words, True
    return (code, REFUSAL, True) if kind in RULES else (code, words, False)


def _refused(code: StatusCode, words: str, retry_after: float | None) -> YandexArtError:
    """The error for an order that was not taken."""
    return row(code).error(words, code=code, retry_after=retry_after)


def _unknown(what: str, call_id: str) -> OutcomeUnknown:
    return OutcomeUnknown(
        f"Outcome unknown: the {IMAGES_API} {what}; the picture may have been bought. The call was x-client-request-id {call_id}"
    )


def _retry_after(response: httpx2.Response) -> float | None:
    """The seconds after which to come back (RFC 9110, section 10.2.3): told as such, or as a date."""
    told = response.headers.get("retry-after", "")
    if re.fullmatch(r"\d{1,9}(\.\d+)?", told, re.ASCII):
        return float(told)
    try:
        return max(0.0, (parsedate_to_datetime(told) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):  # no date, or one without a zone
        return None
