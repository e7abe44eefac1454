"""Credentials of every kind, against a service, an IAM service and a metadata service on this machine."""

import asyncio
import json
import logging
import os
import pickle
import socket
import time
import traceback
import uuid
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode

from tests.conftest import Face, collect
from tests.foreign import Foreign, Held, alone, jpeg, neither, refused, undecodable
from tests.identity import ACCOUNT, KEY, OAUTH, Account, Iam, Metadata, ends_in, fails, write_yc
from yandexart_grpc import AsyncYandexArt, ConfigurationError, Unauthenticated, Unavailable, YandexArt, YandexArtError, auth
from yandexart_grpc.auth import ApiKey, Credential, IamToken, MetadataService, OAuthToken, ServiceAccountKey, Token, YcCli

Connect = Callable[..., Face]

PICTURE = jpeg()
MANY = 200


@pytest.fixture
def service() -> Iterator[Foreign]:
    """A service that is not ours."""
    running = Foreign(image=PICTURE)
    yield running
    running.close()


@pytest.fixture
def life() -> Iterator[ExitStack]:
    """Ends what a test starts."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def connect(connect: Connect, service: Foreign) -> Connect:
    """Makes clients of one kind, as `tests.conftest` does, for that service."""
    endpoint = service.listen()
    return lambda **settings: connect(
        **{"endpoint": endpoint, "timeout": 20, "patience": 0.001, "submits_per_minute": 1e6} | settings
    )


def carried(service: Foreign) -> list[str | bytes | None]:
    """The `authorization` of all calls, in their order but orders first."""
    return [call.metadata.get("authorization") for call in service.executions + service.reads]


class Vault:
    """A source of one's own, which takes its time: as long as it says, or until it is let go."""

    def __init__(self, seconds: float = 0.0, expires_in: float | None = None) -> None:
        self.asked = 0
        self.failure: Exception | None = None
        self._seconds, self._expires_in = seconds, expires_in

    def token(self) -> Token:
        number, self.asked = self.asked, self.asked + 1
        time.sleep(self._seconds)
        if self.failure is not None:
            raise self.failure
        return Token(f"t1.{number}", self._expires_in)


class AsyncVault(Vault):
    """The same, awaited."""

    async def token(self) -> Token:  # type: ignore[override]
        await asyncio.sleep(self._seconds)
        self._seconds = 0.0
        return super().token()


# Each kind


@pytest.mark.parametrize("kind", ["file", "contents"])
async def test_a_service_account_key_is_exchanged_once(
    connect: Connect, service: Foreign, life: ExitStack, tmp_path: Path, kind: str
) -> None:
    """IAM accepts the JWT that is made of the key, and its token is used for every call."""
    iam = Iam()
    file = tmp_path / "key.json"
    file.write_text(json.dumps(iam.account.file))
    key = ServiceAccountKey(file if kind == "file" else iam.account.file)
    art = connect(credentials=key, iam_endpoint=life.enter_context(iam.listening()))
    assert [image.data for image in await collect(art, "map", ["a cat", "a dog"])] == [PICTURE] * 2
    operation = await art.submit("a cow")
    assert await operation.done() is True
    assert carried(service) == ["Bearer t1.0"] * 6
    assert iam.asked == 1
    assert repr(key) == f"ServiceAccountKey('{KEY}')"


async def test_a_key_that_iam_does_not_know_is_told(connect: Connect, service: Foreign, life: ExitStack) -> None:
    """The error is about the credential, in the words of IAM, and nothing was ordered."""
    iam = Iam()
    art = connect(credentials=ServiceAccountKey(Account().file), iam_endpoint=life.enter_context(iam.listening()))
    with pytest.raises(
        Unauthenticated, match=rf"exchanging ServiceAccountKey\('{KEY}'\) .*Signature verification failed"
    ) as caught:
        await art.generate("a cat")
    assert (caught.value.billed, caught.value.code) == ("no", StatusCode.UNAUTHENTICATED)
    assert service.submits == []


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("[]", r"'.*key.json' has no id, service_account_id, private_key"),
        ('{"id": "a", "service_account_id": "b"}', "has no private_key"),
        ("id: a", "is not JSON"),
        (None, "No such file"),
    ],
)
def test_a_broken_key_file_is_named(tmp_path: Path, file: str | None, words: str) -> None:
    """What is wrong with it is said when it is read."""
    path = tmp_path / "key.json"
    if file is not None:
        path.write_text(file)
    with pytest.raises(ConfigurationError, match=words):
        ServiceAccountKey(path)


def test_a_broken_private_key_is_named() -> None:
    """It is not told, only that it is none."""
    key = ServiceAccountKey({"id": KEY, "service_account_id": ACCOUNT, "private_key": "-----BEGIN PRIVATE KEY-----\ncanary"})
    with pytest.raises(ConfigurationError, match=f"key {KEY}: private_key is not an RSA key in PEM") as caught:
        key.proof()
    assert "canary" not in str(caught.value)


async def test_an_oauth_token_is_exchanged_with_a_warning(
    connect: Connect, service: Foreign, life: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    """The bare text is known by its prefix; that such tokens end with 2026 is warned and logged."""
    endpoint = life.enter_context(Iam().listening())
    with pytest.warns(DeprecationWarning, match="end with the year 2026"):
        art = connect(credentials=OAUTH, iam_endpoint=endpoint)
    assert "end with the year 2026" in caplog.text
    await art.generate("a cat")
    assert carried(service) == ["Bearer t1.0"] * 2


async def test_the_metadata_service_is_asked(connect: Connect, service: Foreign, life: ExitStack) -> None:
    """With the path and the header that it wants, once."""
    metadata = Metadata()
    art = connect(credentials=MetadataService(life.enter_context(metadata.listening())))
    await art.generate("a cat")
    await art.generate("a cat")
    assert carried(service) == ["Bearer t1.0"] * 4
    assert metadata.asked == 1


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [(b"{}", 200, "is not {access_token, expires_in}"), (b"<html>", 200, "is not"), (b"no account", 404, "HTTP 404 Not Found")],
)
async def test_what_a_metadata_service_answers_instead_is_told(
    connect: Connect, life: ExitStack, body: bytes, status: int, words: str
) -> None:
    """The error has its address, and says why there is no token."""
    address = life.enter_context(Metadata(body, status).listening())
    with pytest.raises(Unavailable, match=f"the metadata service at {address} gave no token: .*{words}"):
        await connect(credentials=MetadataService(address)).generate("a cat")


async def test_yc_is_run(connect: Connect, service: Foreign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last line is the token, of the profile that the environment names."""
    write_yc(tmp_path, 'echo "a new version of yc is there" >&2; echo "$@"; echo t1.$4')
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("YC_PROFILE", "work")
    await connect(credentials=YcCli()).generate("a cat")
    assert carried(service) == ["Bearer t1.work"] * 2


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo one >&2; echo ERROR: sign in first >&2; exit 1", "ERROR: sign in first"),
        ("exit 3", "it ended with 3"),
        ("exec sleep 5", "no answer within 0.3 s"),
        ("echo a b", "3 characters that hold"),
    ],
)
async def test_what_yc_says_instead_is_told(
    connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, words: str
) -> None:
    """Its own last words are in the error."""
    write_yc(tmp_path, script)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(Unavailable, match=f"`yc iam create-token` gave no token: {words}"):
        await connect(credentials=YcCli(timeout=0.3)).generate("a cat")


async def test_a_source_of_ones_own_is_asked_once(connect: Connect, service: Foreign) -> None:
    """Any object with `token()` gives tokens."""
    vault = Vault()
    art = connect(credentials=vault)
    await art.generate("a cat")
    await art.generate("a cat")
    assert carried(service) == ["Bearer t1.0"] * 4
    assert vault.asked == 1


async def test_an_awaited_source_is_for_the_awaited_client(service: Foreign) -> None:
    """It is awaited there, and refused by the blocking client."""
    endpoint = service.listen()
    async with AsyncYandexArt(endpoint=endpoint, folder_id="f", credentials=AsyncVault()) as art:
        await art.generate("a cat")
    assert carried(service) == ["Bearer t1.0"] * 2
    with pytest.raises(ConfigurationError, match="AsyncVault is for AsyncYandexArt"):
        YandexArt(endpoint=endpoint, folder_id="f", credentials=AsyncVault())


async def test_what_a_source_of_ones_own_raises_is_told(connect: Connect) -> None:
    """Nothing but errors of ours leaves a client, chained to what it raised."""
    vault = Vault()
    vault.failure = RuntimeError("sealed")
    with pytest.raises(Unavailable, match="Vault gave no token: RuntimeError: sealed") as caught:
        await connect(credentials=vault).generate("a cat")
    assert caught.value.billed == "no"


async def test_warming_up_fetches_the_token(connect: Connect) -> None:
    """So that the first order waits for nothing."""
    vault = Vault()
    await connect(credentials=vault).warm_up()
    assert vault.asked == 1


# Renewal


@pytest.mark.parametrize("expires_in", [None, 3600.0])
async def test_many_wait_for_one_token(connect: Connect, service: Foreign, expires_in: float | None) -> None:
    """Two hundred threads or tasks that begin together fetch one token."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(MANY + 1))
    vault = Vault(seconds=0.05, expires_in=expires_in)
    art = connect(credentials=vault)
    await asyncio.gather(*(art.submit(f"cat {number}") for number in range(MANY)))
    assert vault.asked == 1
    assert carried(service) == ["Bearer t1.0"] * MANY


async def test_many_share_one_exchange(connect: Connect, service: Foreign, life: ExitStack) -> None:
    """Also over gRPC."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(MANY + 1))
    iam = Iam()
    art = connect(credentials=ServiceAccountKey(iam.account.file), iam_endpoint=life.enter_context(iam.listening()))
    await asyncio.gather(*(art.submit(f"cat {number}") for number in range(MANY)))
    assert iam.asked == 1


@pytest.mark.parametrize("way", ["map", "generate"])
async def test_a_token_refused_in_the_middle_of_many_is_renewed_once(connect: Connect, service: Foreign, way: str) -> None:
    """All who are refused share one renewal and make their call once more; nothing is ordered twice, and nothing lost."""
    vault = Vault(seconds=0.02)
    art = connect(credentials=vault)
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(50))
    held = Held()
    service.keys = {"Bearer t1.0"}
    service.script(held, *[alone] * 50)

    async def turn() -> None:
        await asyncio.to_thread(held.asked.wait, 10)
        service.keys = {"Bearer t1.1"}
        held.release.set()

    prompts = [f"cat {number}" for number in range(30)]
    turning = asyncio.create_task(turn())
    if way == "map":
        images = await collect(art, "map", prompts, in_flight=10)
    else:
        images = await asyncio.gather(*map(art.generate, prompts))
    await turning
    assert [image.data for image in images] == [PICTURE] * 30
    assert len(service.executions) == 30
    assert vault.asked == 2
    assert {call.metadata["authorization"] for call in service.refused} == {"Bearer t1.0"}


async def test_a_token_that_is_refused_again_is_the_error(connect: Connect, service: Foreign) -> None:
    """The call is made twice, and the error is what the server said the second time."""
    service.keys = set()
    vault = Vault()
    with pytest.raises(Unauthenticated, match="Token is invalid or has expired") as caught:
        await connect(credentials=vault).generate("a cat")
    assert [call.metadata["authorization"] for call in service.refused] == ["Bearer t1.0", "Bearer t1.1"]
    assert (vault.asked, caught.value.billed) == (2, "no")


@pytest.mark.parametrize("credentials", ["AQVNkey", "t1.token"])
async def test_what_cannot_be_renewed_is_not_tried_again(connect: Connect, service: Foreign, credentials: str) -> None:
    """An API key, or a token that was given as it is, is refused once."""
    service.keys = set()
    with pytest.raises(Unauthenticated):
        await connect(credentials=credentials).submit("a cat")
    assert len(service.refused) == 1


async def test_a_token_that_ends_in_the_middle_of_a_wait_is_renewed(connect: Connect, service: Foreign) -> None:
    """The wait goes on with the new one."""
    service.script(alone)
    vault = Vault(expires_in=0.05)
    image = await connect(credentials=vault).generate("a cat")
    assert image.data == PICTURE
    assert vault.asked > 1
    assert len(set(carried(service))) == vault.asked


async def test_a_token_service_that_is_down_is_told_when_the_token_has_ended(connect: Connect, service: Foreign) -> None:
    """Until then nobody notices; and then an operation can still be picked up by its id."""
    vault = Vault(expires_in=0.2)
    art = connect(credentials=vault)
    operation = await art.submit("a cat")
    vault.failure = OSError("no route")
    await asyncio.sleep(0.02)
    assert await operation.done() is True
    other = await art.submit("a cat")
    service.keys = set()  # as it is when the token has ended
    with pytest.raises(Unavailable, match="Vault gave no token: OSError: no route") as caught:
        await other.result()
    assert (caught.value.operation_id, caught.value.billed) == (other.id, "yes")


@pytest.mark.parametrize("hours", [-24, -2, 2, 24])
async def test_a_wrong_clock_costs_no_renewal(connect: Connect, life: ExitStack, hours: int) -> None:
    """A token whose end is past already, or days away, is used all the same, and renewed no more often than any."""
    iam = Iam(ends_in(hours * 3600.0))
    art = connect(credentials=ServiceAccountKey(iam.account.file), iam_endpoint=life.enter_context(iam.listening()))
    for _ in range(3):
        await art.generate("a cat")
    assert iam.asked == 1


async def test_a_slow_renewal_does_not_block_the_event_loop(service: Foreign) -> None:
    """While a thread fetches a token, the loop does other things."""
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.001)
            ticks += 1

    async with AsyncYandexArt(endpoint=service.listen(), folder_id="f", credentials=Vault(seconds=0.05)) as art:
        ticking = asyncio.create_task(tick())
        await art.submit("a cat")
        ticking.cancel()
    assert ticks > 10


async def test_one_that_is_cancelled_while_it_renews_leaves_it_to_another(service: Foreign) -> None:
    """The others do not wait for what never comes."""
    vault = AsyncVault(seconds=30)
    async with AsyncYandexArt(endpoint=service.listen(), folder_id="f", credentials=vault) as art:
        leader = asyncio.create_task(art.submit("a cat"))
        await asyncio.sleep(0.02)
        others = [asyncio.create_task(art.submit("a cat")) for _ in range(3)]
        await asyncio.sleep(0.02)
        vault._seconds = 0.0
        leader.cancel()
        await asyncio.gather(*others)
    assert vault.asked == 1


async def test_an_exchange_that_fails_for_a_moment_is_tried_again_by_the_next_call(connect: Connect, life: ExitStack) -> None:
    """After a second, which is the test's to wait for only in the rule's own tests."""
    iam = Iam(fails(StatusCode.UNAVAILABLE))
    art = connect(credentials=ServiceAccountKey(iam.account.file), iam_endpoint=life.enter_context(iam.listening()))
    for _ in range(2):
        with pytest.raises(Unavailable, match="said IAM"):
            await art.generate("a cat")
    assert iam.asked == 1


# The search


def search(**environ: str) -> Any:
    """What is found at Yandex, where nothing was given and the machine has nothing."""
    return auth.find(None, {"YC_METADATA_ADDR": "127.0.0.1:1"} | environ, machine=True)


def test_the_environment_is_searched_in_the_order_of_the_official_sdk(tmp_path: Path, life: ExitStack) -> None:
    """Each is found where nothing before it is."""
    file = tmp_path / "key.json"
    file.write_text(json.dumps(Account().file))
    write_yc(tmp_path, "echo t1.yc")
    order: list[tuple[dict[str, str], Any]] = [
        ({"YC_API_KEY": "t1.key"}, ApiKey),  # the variable says what it is, and not the prefix
        ({"YC_IAM_TOKEN": "token"}, IamToken),
        ({"YC_OAUTH_TOKEN": "token"}, OAuthToken),
        ({"YC_SERVICE_ACCOUNT_KEY_FILE": str(file)}, ServiceAccountKey),
        ({"YC_METADATA_ADDR": life.enter_context(Metadata().listening())}, MetadataService),
        ({"YC_TOKEN": "token"}, Credential),
        ({"PATH": str(tmp_path)}, YcCli),
    ]
    environ: dict[str, str] = {}
    for variables, kind in reversed(order):
        environ = variables | environ
        if kind is OAuthToken:
            with pytest.warns(DeprecationWarning, match="2026"):
                assert isinstance(search(**environ), kind)
        else:
            assert isinstance(search(**environ), kind)


def test_a_search_that_finds_nothing_lists_what_was_tried(life: ExitStack) -> None:
    """In its order, with the reason why each is nothing."""
    address = life.enter_context(Metadata(status=404).listening())
    with pytest.raises(ConfigurationError) as caught:
        search(YC_METADATA_ADDR=address)
    assert str(caught.value) == (
        "credentials: none given, and none found (YC_API_KEY: not set; YC_IAM_TOKEN: not set; YC_OAUTH_TOKEN: not set; "
        f"YC_SERVICE_ACCOUNT_KEY_FILE: not set; the metadata service at {address} gave no token: HTTP 404 Not Found; "
        "YC_TOKEN: not set; yc is not on the path)"
    )


def test_a_search_is_short_where_there_is_no_metadata_service() -> None:
    """An address that swallows what is sent to it costs a tenth of a second."""
    with ExitStack() as life:
        silent = life.enter_context(socket.create_server(("127.0.0.1", 0)))
        began = time.monotonic()
        with pytest.raises(ConfigurationError, match=r"gave no token: no answer within 0\.1 s"):
            search(YC_METADATA_ADDR=f"127.0.0.1:{silent.getsockname()[1]}")
        assert time.monotonic() - began < 1


async def test_only_a_client_of_yandex_asks_the_machine(
    connect: Connect, service: Foreign, life: ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a server of one's own nor a demo is a reason to run `yc` or to ask for an account."""
    metadata = Metadata()
    write_yc(tmp_path, "echo t1.yc")
    monkeypatch.setenv("YC_METADATA_ADDR", life.enter_context(metadata.listening()))
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    await connect().generate("a cat")
    assert carried(service) == [None, None]
    assert metadata.asked == 0


async def test_the_demo_takes_no_credential_of_the_environment(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """It needs none, and exchanges none."""
    monkeypatch.setenv("YC_SERVICE_ACCOUNT_KEY_FILE", "/nowhere/key.json")
    assert (await connect(endpoint="demo://").generate("a cat")).width == 1024


async def test_a_token_that_others_renew_is_read_for_each_call(
    connect: Connect, service: Foreign, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`YC_TOKEN` may change while the client lives; that it is gone is told."""
    monkeypatch.setenv("YC_TOKEN", "t1.a")
    art = connect()
    operation = await art.submit("a cat")
    monkeypatch.setenv("YC_TOKEN", "t1.b")
    await operation.result()
    assert carried(service) == ["Bearer t1.a", "Bearer t1.b"]
    monkeypatch.delenv("YC_TOKEN")
    with pytest.raises(Unauthenticated, match="YC_TOKEN: empty") as caught:
        await art.submit("a cat")
    assert (caught.value.operation_id, caught.value.billed) == (None, "no")
    other = await art.operation(operation.id)
    for ask in (other.result, other.done, other.cancel):
        with pytest.raises(Unauthenticated, match="YC_TOKEN: empty") as caught:
            await ask()
        assert (caught.value.operation_id, caught.value.billed) == (operation.id, "yes")


# What else each call carries


async def test_every_call_has_an_id_that_its_error_tells(connect: Connect, service: Foreign) -> None:
    """A UUID, another for each call, so that support can find it."""
    art = connect()
    await collect(art, "map", ["a cat", "a dog"])
    ids = [str(call.metadata["x-client-request-id"]) for call in service.submits + service.reads]
    assert len({uuid.UUID(each) for each in ids}) == 4
    service.script(refused(StatusCode.PERMISSION_DENIED, metadata=(("x-request-id", "r1"),)))
    with pytest.raises(YandexArtError) as caught:
        await art.generate("a cat")
    assert caught.value.client_request_id == service.reads[-1].metadata["x-client-request-id"]
    assert caught.value.request_id == "r1"
    service.script(refused(StatusCode.PERMISSION_DENIED))
    (failed,) = await collect(art, "map", ["a cat"], return_exceptions=True)
    assert failed.client_request_id == service.reads[-1].metadata["x-client-request-id"]


@pytest.mark.parametrize(("data_logging", "header"), [(None, None), (True, None), (False, "false")])
async def test_the_service_can_be_asked_not_to_keep_prompts(
    connect: Connect, service: Foreign, data_logging: bool | None, header: str | None
) -> None:
    """`data_logging=False` says so with every call; else nothing is said."""
    await connect(data_logging=data_logging).generate("a cat")
    assert [call.metadata.get("x-data-logging-enabled") for call in service.submits + service.reads] == [header] * 2


# Secrets

CANARY = "t1.canary"
SHOWN: list[Callable[[object], object]] = [repr, str, "{}".format, "{!s:>40}".format, lambda kept: f"{kept} {kept!r}"]


def secrets() -> list[object]:
    """Everything that keeps a credential."""
    with warnings.catch_warnings(action="ignore"):
        oauth = OAuthToken(CANARY)
    key = {"id": KEY, "service_account_id": ACCOUNT, "private_key": CANARY}
    return [
        auth.Secret(CANARY),
        auth.Header(CANARY),
        Credential(CANARY),
        ApiKey(CANARY),
        IamToken(CANARY),
        Token(CANARY),
        oauth,
        oauth.proof(),
        ServiceAccountKey(key),
        search(YC_TOKEN=CANARY),
    ]


@pytest.mark.parametrize("kept", secrets(), ids=lambda kept: type(kept).__name__)
def test_nothing_that_keeps_a_secret_shows_it(kept: object, caplog: pytest.LogCaptureFixture) -> None:
    """Neither by itself, nor in a container, nor in a log, nor pickled."""
    for show in SHOWN:
        assert not shows(str(show(kept)), str(show([kept])))
    logging.getLogger().warning("%s %r", kept, [kept])
    logging.getLogger().warning(kept)
    assert not shows(caplog.text)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError):
            pickle.dumps(kept, protocol)


def test_a_hidden_header_can_be_used_again() -> None:
    """What is made of one that shows nothing is still what it was."""
    again = Credential(Credential("Api-Key canary").authorization).authorization
    assert again == "Api-Key canary"
    assert again.encode() == b"Api-Key canary"


def traced(error: BaseException | None) -> Iterator[str]:
    """What may be shown of an error and its causes: texts, and the variables of each frame outside of these tests."""
    while error is not None:
        yield repr(error)
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if not frame.f_code.co_filename.startswith(str(Path(__file__).parent)):
                yield from map(repr, frame.f_locals.items())
        error = error.__cause__ or error.__context__


def shows(*texts: str) -> bool:
    """Whether one of them has the canary in it."""
    return any("canary" in text for text in texts)


class Canaries:
    """A source whose every token is one."""

    def token(self) -> Token:
        return Token(CANARY, 0.0)


@pytest.mark.parametrize("credentials", [ApiKey(CANARY), Canaries(), "yc", "iam"], ids=["key", "source", "yc", "iam"])
async def test_no_error_and_no_log_shows_a_secret(
    connect: Connect,
    service: Foreign,
    life: ExitStack,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    credentials: Any,
) -> None:
    """Whatever fails: the token, the order, the read, the cancellation; in whichever client."""
    caplog.set_level(logging.DEBUG)
    write_yc(tmp_path, f"echo {CANARY}")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    iam = Iam(*[lambda token, context: setattr(token, "iam_token", CANARY)] * 20, fails(StatusCode.UNAVAILABLE))
    if credentials == "yc":
        credentials = YcCli()
    elif credentials == "iam":
        with pytest.warns(DeprecationWarning, match="2026"):
            credentials = OAuthToken(OAUTH)
    art = connect(credentials=credentials, iam_endpoint=life.enter_context(iam.listening()), rpc_timeout=5)
    errors: list[BaseException] = []
    operation = await art.submit("a cat")
    for answer in (refused(StatusCode.PERMISSION_DENIED), neither, undecodable(b"\xff")):
        service.script(answer)
        with pytest.raises(YandexArtError) as caught:
            await art.generate("a cat")
        errors.append(caught.value)
    with pytest.raises(YandexArtError) as caught:
        await operation.cancel()
    errors.append(caught.value)
    service.keys = set()
    for ask in (lambda: art.generate("a cat"), operation.done, lambda: collect(art, "map", ["a cat"])):
        with pytest.raises(Unauthenticated) as caught:
            await ask()
        errors.append(caught.value)
    service.close()
    with pytest.raises(YandexArtError) as caught:
        await art.generate("a cat")
    errors.append(caught.value)
    assert not shows(caplog.text, repr(vars(art.behind)))
    for error in errors:
        assert not shows(*traced(error), repr(pickle.dumps(error)))


async def test_a_wrong_setting_does_not_show_the_credential(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither one that was given as a text, nor those in the environment."""
    monkeypatch.setenv("YC_IAM_TOKEN", CANARY)
    wrong: list[dict[str, Any]] = [{"timeout": -1}, {"timeout": -1, "credentials": CANARY}, {"credentials": f"{CANARY} x"}]
    for settings in wrong:
        with pytest.raises(ConfigurationError) as caught:
            connect(**settings)
        assert not shows(*traced(caught.value))


@pytest.mark.parametrize("script", ["echo t1.canary x", "echo t1.canary; sleep 5"])
def test_what_yc_had_said_is_not_shown(tmp_path: Path, script: str) -> None:
    """Although it was no token, or came too late."""
    write_yc(tmp_path, script)
    with pytest.raises(Unavailable) as caught:
        YcCli(timeout=0.2, environ={"PATH": str(tmp_path)}).token()
    assert not shows(*traced(caught.value))
