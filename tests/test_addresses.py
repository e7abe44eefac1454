"""Addresses: where a credential may go, who is believed to be there, and how the way is found."""

import asyncio
import json
import logging
import socket
import socketserver
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from yandex.cloud.endpoint import api_endpoint_service_pb2_grpc
from yandex.cloud.endpoint.api_endpoint_pb2 import ApiEndpoint
from yandex.cloud.endpoint.api_endpoint_service_pb2 import (
    GetApiEndpointRequest,
    ListApiEndpointsRequest,
    ListApiEndpointsResponse,
)

from tests.conftest import Face, collect
from tests.foreign import Foreign, jpeg
from tests.identity import Account, Iam, Metadata, write_yc
from tests.test_settings import resolve
from yandexart_grpc import AsyncYandexArt, ConfigurationError, Unavailable, YandexArt
from yandexart_grpc.address import Endpoint, address_of_proxy
from yandexart_grpc.auth import ApiKey, ServiceAccountKey
from yandexart_grpc.server import Embedded

Connect = Callable[..., Face]
PICTURE = jpeg()

KEY = {"YC_API_KEY": "AQVN-canary"}


@pytest.fixture
def life() -> Iterator[ExitStack]:
    """Ends what a test starts."""
    with ExitStack() as stack:
        yield stack


class TestTrust:
    @pytest.mark.parametrize(
        "endpoint",
        [
            *("https://llm.api.cloud.yandex.net", "https://LLM.API.cloud.yandex.net.", "api.yandexcloud.kz:443"),
            *("http://127.0.0.1:1", "http://127.9.9.9:1", "http://[::1]:1", "http://localhost:1", "dns+http:///localhost:1"),
            *("images://", "images://ai.api.cloud.yandex.net", "images+http://127.0.0.1:1"),
        ],
    )
    def test_a_key_of_the_environment_goes_to_yandex_and_to_this_machine(self, endpoint: str) -> None:
        """Every known form of these addresses is taken, from an argument and from the environment."""
        assert resolve(KEY, credentials=None, endpoint=endpoint).credential
        assert resolve(KEY | {"YANDEXART_ENDPOINT": endpoint}, credentials=None).credential

    @pytest.mark.parametrize(
        ("endpoint", "host"),
        [
            ("https://art.example.com", "art.example.com"),
            ("dns:///art.example.com:443", "art.example.com"),
            ("images://art.example.com", "art.example.com"),
            ("https://api.cloud.yandex.net.example.com", "api.cloud.yandex.net.example.com"),
            ("https://xapi.cloud.yandex.net", "xapi.cloud.yandex.net"),
            ("https://d5d.apigw.yandexcloud.net", "d5d.apigw.yandexcloud.net"),  # anybody may have one
            ("https://127.0.0.1.example.com", "127.0.0.1.example.com"),
            ("dns+http://8.8.8.8/localhost:1", "localhost"),  # whatever that one says it is
        ],
    )
    def test_a_key_of_the_environment_goes_to_no_other_host_unless_it_is_named(self, endpoint: str, host: str) -> None:
        """The error names the setting, the host, and the ways to say that it is meant; each of them works."""
        for environ, arguments in ((KEY, {"endpoint": endpoint}), (KEY | {"YANDEXART_ENDPOINT": endpoint}, {})):
            with pytest.raises(ConfigurationError, match=rf"endpoint: {host!r} is no host of Yandex.*TRUSTED_HOST={host}"):
                resolve(environ, credentials=None, **arguments)
        said = KEY | {"YANDEXART_TRUSTED_HOST": f"other.example.com, {host.upper()}"}
        assert resolve(said, credentials=None, endpoint=endpoint, allow_plaintext=True).credential
        assert resolve(credentials="AQVN-given", endpoint=endpoint, allow_plaintext=True).credential
        assert resolve(credentials=None, endpoint=endpoint) if not endpoint.startswith("images") else True

    def test_each_address_is_judged(self) -> None:
        """Operations are read with the key, too."""
        with pytest.raises(ConfigurationError, match=r"^operation_endpoint: 'art.example.com' is no host of Yandex"):
            resolve(KEY, credentials=None, operation_endpoint="art.example.com:443")

    @pytest.mark.parametrize("endpoint", ["http://h:1", "dns+http:///h:1", "images+http://h:1"])
    def test_a_credential_goes_over_no_plaintext_unless_that_is_said(self, endpoint: str) -> None:
        """Also one that was given for that very address. Without a credential there is nothing to lose."""
        with pytest.raises(ConfigurationError, match=r"^endpoint: .* is plaintext.*allow_plaintext"):
            resolve(endpoint=endpoint)
        assert resolve(endpoint=endpoint, allow_plaintext=True).credential

    @pytest.mark.parametrize("name", ["YC_IAM_TOKEN", "YC_OAUTH_TOKEN", "YC_SERVICE_ACCOUNT_KEY_FILE", "YC_TOKEN"])
    @pytest.mark.filterwarnings("ignore:OAuth tokens")
    def test_every_kind_that_the_environment_holds_is_bound(self, name: str, tmp_path: Path) -> None:
        """Neither its tokens go to a stranger nor its proofs, until that is said."""
        file = tmp_path / "canary.json"
        file.write_text(json.dumps(Account().file))
        environ = {name: str(file) if name.endswith("FILE") else "canary"}
        for setting in "endpoint", "operation_endpoint", "iam_endpoint":
            place = {"credentials": None, "endpoint": "http://localhost:1"} | {setting: "https://art.example.com"}
            with pytest.raises(ConfigurationError, match=f"^{setting}: 'art.example.com' is no host of Yandex") as caught:
                resolve(environ, **place)
            assert "canary" not in str(caught.value)
            found = resolve(environ | {"YANDEXART_TRUSTED_HOST": "art.example.com"}, **place)
            assert found.credential or found.source

    def test_what_the_machine_gives_is_bound_and_searched_toward_yandex_alone(self, tmp_path: Path, life: ExitStack) -> None:
        """Of the metadata service and of `yc`: nobody asks them for another host, nor sends what they gave to one."""
        metadata = Metadata()
        address = life.enter_context(metadata.listening())
        write_yc(tmp_path, "echo t1.yc")
        for environ in {"YC_METADATA_ADDR": address}, {"PATH": str(tmp_path)}:
            for endpoint in None, "ru", "kz", "images://":
                assert resolve(environ, credentials=None, endpoint=endpoint).source
            with pytest.raises(ConfigurationError, match=r"^operation_endpoint: 'art.example.com' is no host of Yandex"):
                resolve(environ, credentials=None, operation_endpoint="art.example.com:443")
            asked = metadata.asked
            with pytest.raises(ConfigurationError, match="credentials: none given"):
                resolve(environ, credentials=None, endpoint="images://art.example.com")
            for place in (
                {"endpoint": "https://art.example.com"},
                {"discovery": "https://art.example.com"},
                {"endpoint": "demo://"},
            ):
                assert resolve(environ, **{"credentials": None} | place).source is None
            assert metadata.asked == asked

    @pytest.mark.parametrize("kind", [YandexArt, AsyncYandexArt])
    def test_both_clients_refuse_before_they_connect(
        self, kind: type[YandexArt | AsyncYandexArt], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The constructor raises, so that no connection is ever made."""
        monkeypatch.setenv("YC_API_KEY", "AQVN-canary")
        with pytest.raises(ConfigurationError, match="YANDEXART_TRUSTED_HOST") as caught:
            kind(endpoint="https://art.example.com")
        assert "canary" not in str(caught.value)
        with pytest.raises(ConfigurationError, match="allow_plaintext"):
            kind(endpoint="http://art.example.com:1", credentials="AQVN-canary")


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("dns:///art.example.com:443", Endpoint("dns:///art.example.com:443")),
        ("dns+http:///art:50051", Endpoint("dns:///art:50051", plaintext=True)),
        ("dns://10.0.0.1:53/art:443", Endpoint("dns://10.0.0.1:53/art:443")),
    ],
)
def test_a_name_with_several_servers_behind_it_is_read_and_written(text: str, endpoint: Endpoint) -> None:
    """What is written is read the same."""
    assert Endpoint.parse(text) == endpoint
    assert str(endpoint) == text


@pytest.mark.parametrize("text", ["dns:///host", "dns://host:1", "dns:host:1", "dns+https:///h:1", "dns:////h:1"])
def test_a_name_of_another_form_is_refused(text: str) -> None:
    """A port is needed, as gRPC would take 443 without a word."""
    arguments: dict[str, Any] = {"endpoint": text}
    with pytest.raises(ConfigurationError, match=r"endpoint: .* is none of .*dns:///name:port"):
        resolve(**arguments)


# Several servers behind one name


class _Names(socketserver.DatagramRequestHandler):
    """A name server that knows one address list, whatever the name."""

    hosts = ("127.0.0.1", "127.0.0.2")

    def handle(self) -> None:
        asked = self.rfile.read()
        end = asked.index(b"\0", 12) + 5
        answers = self.hosts if asked[end - 4 : end - 2] == b"\0\1" else ()  # IPv4 alone
        self.wfile.write(asked[:2] + struct.pack(">HHHHH", 0x8180, 1, len(answers), 0, 0) + asked[12:end])
        for host in answers:
            self.wfile.write(struct.pack(">HHHIH", 0xC00C, 1, 1, 60, 4) + socket.inet_aton(host))


@pytest.fixture
def names() -> Iterator[str]:
    """The address of a name server that names two hosts."""
    with socketserver.UDPServer(("127.0.0.1", 0), _Names) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture
def foreign() -> Iterator[Foreign]:
    """A server that is not ours."""
    server = Foreign(image=PICTURE)
    yield server
    server.close()


async def test_calls_are_spread_over_all_behind_a_name_and_one_may_be_lost(
    connect: Connect, foreign: Foreign, names: str
) -> None:
    """With two servers behind the name each takes part of the calls; with one of them closed, the other takes all."""
    port = int(foreign.listen().rpartition(":")[2])
    foreign.listen(host="127.0.0.2", port=port)
    art = connect(endpoint=f"dns+http://{names}/pictures.invalid:{port}")
    ordered = 0
    while min(foreign.calls["127.0.0.1"], foreign.calls["127.0.0.2"]) < 4:  # one may be connected later than the other
        await art.submit("a red cat")
        ordered += 1
        assert ordered < 100
    foreign.close("127.0.0.2")
    foreign.calls.clear()
    for _ in range(8):
        operation = await art.submit("a red cat")
    assert (await operation.result()).data == PICTURE
    assert set(foreign.calls) == {"127.0.0.1"}
    assert len(foreign.executions) == ordered + 8


# TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """An authority that nobody else knows."""
    return trustme.CA()


@pytest.fixture
def root(authority: trustme.CA, tmp_path: Path) -> Path:
    """Its certificate, in a file."""
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return tmp_path / "ca.pem"


def certified(certificate: trustme.LeafCert, client_authority: bytes | None = None) -> grpc.ServerCredentials:
    """What a server shows who it is with, and of whom it wants the same."""
    chain = b"".join(pem.bytes() for pem in certificate.cert_chain_pems)
    pair = [(certificate.private_key_pem.bytes(), chain)]
    return grpc.ssl_server_credentials(pair, client_authority, require_client_auth=client_authority is not None)


def expired(authority: trustme.CA) -> trustme.LeafCert:
    """A certificate that ended yesterday."""
    return authority.issue_cert("127.0.0.1", not_after=datetime.now(UTC) - timedelta(days=1))


@pytest.mark.parametrize(
    ("issue", "words"),
    [
        (lambda authority: authority.issue_cert("art.example.com"), "(?i)hostname verification"),
        (expired, "certificate has expired"),
        (lambda authority: trustme.CA().issue_cert("127.0.0.1"), "CERTIFICATE_VERIFY_FAILED"),
    ],
    ids=["of another host", "expired", "of another authority"],
)
async def test_who_shows_a_wrong_certificate_gets_nothing(
    connect: Connect, foreign: Foreign, authority: trustme.CA, root: Path, issue: Any, words: str
) -> None:
    """The error tells what is wrong with it; no call, and so no credential, came through."""
    endpoint = foreign.listen(credentials=certified(issue(authority)))
    with pytest.raises(Unavailable, match=words) as caught:
        await connect(endpoint=endpoint, root_certificates=root, credentials="AQVN-canary").submit("a red cat")
    assert caught.value.billed == "no"
    assert not foreign.calls


async def test_a_client_shows_its_certificate(
    connect: Connect, foreign: Foreign, authority: trustme.CA, root: Path, tmp_path: Path
) -> None:
    """A server that wants one serves those who have it, and nobody else."""
    mine = authority.issue_cert("client")
    mine.private_key_and_cert_chain_pem.write_to_path(tmp_path / "client.pem")
    pair = {"client_certificate": tmp_path / "client.pem", "client_key": tmp_path / "client.pem"}
    wanted = certified(authority.issue_cert("127.0.0.1"), authority.cert_pem.bytes())
    secured = {"endpoint": foreign.listen(credentials=wanted), "root_certificates": root}
    await connect(**secured, **pair).submit("a red cat")
    foreign.calls.clear()
    with pytest.raises(Unavailable):
        await connect(**secured).submit("a red cat")
    assert not foreign.calls


def test_a_wrong_client_certificate_is_named(authority: trustme.CA, root: Path, tmp_path: Path) -> None:
    """Missing halves, files that are none, and a key of another certificate."""
    key = tmp_path / "key.pem"
    authority.issue_cert("client").private_key_pem.write_to_path(key)
    for arguments, words in (
        ({"client_certificate": root}, "client_certificate, client_key: one of them is missing"),
        ({"client_key": key}, "client_certificate, client_key: one of them is missing"),
        ({"client_certificate": key, "client_key": key}, "client_certificate: .* holds no PEM certificate"),
        ({"client_certificate": root, "client_key": root}, "client_key: .* holds no PEM private key"),
        ({"client_certificate": root, "client_key": key}, "client_certificate, client_key: .*KEY_VALUES_MISMATCH"),
        ({"client_certificate": root, "client_key": "/nowhere"}, "client_key: .*'/nowhere'"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            resolve(**arguments)


# Proxies


@pytest.mark.parametrize(
    ("environ", "proxy"),
    [
        ({}, None),
        ({"https_proxy": "http://proxy:3128"}, "proxy:3128"),
        ({"https_proxy": "http://user:secret@proxy:3128/"}, "proxy:3128"),
        ({"https_proxy": "http://a:1", "grpc_proxy": "http://b:2"}, "b:2"),
        ({"HTTPS_PROXY": "http://proxy:3128", "https_proxy": ""}, None),
        ({"https_proxy": "socks5://proxy:3128"}, None),
        ({"https_proxy": "http://proxy:3128", "no_proxy": "example.org, example.com"}, None),
        ({"https_proxy": "http://proxy:3128", "no_proxy": "example.org"}, "proxy:3128"),
    ],
)
def test_the_proxy_is_the_one_that_grpc_takes(environ: dict[str, str], proxy: str | None) -> None:
    """By gRPC's own rules, and without the password."""
    assert address_of_proxy(Endpoint("art.example.com:443"), environ) == proxy


class _Recorder(socketserver.StreamRequestHandler):
    """Keeps everything that it hears, and says nothing."""

    def handle(self) -> None:
        self.request.settimeout(0.5)
        try:
            while data := self.request.recv(65536):
                self.server.heard.append(data)  # type: ignore[attr-defined]  # made in the fixture
        except OSError:
            pass


@pytest.fixture
def recorder() -> Iterator[tuple[str, list[bytes]]]:
    """The address of a listener, and everything that anybody said to it."""
    heard: list[bytes] = []
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Recorder) as server:
        server.heard = heard  # type: ignore[attr-defined]
        server.daemon_threads, server.block_on_close = True, False
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        yield f"127.0.0.1:{server.server_address[1]}", heard
        server.shutdown()


async def test_no_proxy_hears_what_stays_on_this_machine(
    connect: Connect, foreign: Foreign, recorder: tuple[str, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plaintext to loopback is allowed because nobody hears it, and so it never takes the way over a proxy."""
    monkeypatch.setenv("https_proxy", f"http://{recorder[0]}")
    art = connect(endpoint=foreign.listen(), credentials="AQVN-canary")
    await art.submit("a red cat")
    assert recorder[1] == []


async def test_a_proxy_is_told_once_or_refused(
    connect: Connect, recorder: tuple[str, list[bytes]], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The log names it without its password; with `proxy=False` it hears nothing."""
    address, heard = recorder
    monkeypatch.setenv("https_proxy", f"http://user:secret@{address}")
    refusing = connect(endpoint="https://pictures.invalid", proxy=False, rpc_timeout=0.3)
    with pytest.raises(Unavailable):
        await refusing.warm_up()
    assert heard == []
    with caplog.at_level(logging.INFO, logger="yandexart_grpc"):
        for _ in range(2):
            with pytest.raises(Unavailable):
                await connect(endpoint="https://pictures.invalid", rpc_timeout=0.3).warm_up()
    assert [message for message in caplog.messages if address in message] == [
        f"connections go through the proxy {address}, which the environment names; proxy=False uses none"
    ]
    assert heard[0].startswith(b"CONNECT pictures.invalid:443 ")


# Regions and directories


class Directory(api_endpoint_service_pb2_grpc.ApiEndpointServiceServicer):
    """Tells what it is told to, and remembers who asked."""

    def __init__(self, addresses: dict[str, str] | grpc.StatusCode) -> None:
        self.addresses = addresses
        self.asked: list[dict[str, str | bytes]] = []

    def List(self, request: ListApiEndpointsRequest, context: grpc.ServicerContext) -> ListApiEndpointsResponse:
        self.asked.append(dict(context.invocation_metadata()))
        if isinstance(self.addresses, grpc.StatusCode):
            context.abort(self.addresses, "not today")
        known = [ApiEndpoint(id=name, address=address) for name, address in self.addresses.items()]
        return ListApiEndpointsResponse(endpoints=known)

    def Get(self, request: GetApiEndpointRequest, context: grpc.ServicerContext) -> ApiEndpoint:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "the list says it all")


Tell = Callable[[dict[str, str] | grpc.StatusCode], tuple[Directory, str]]


@pytest.fixture
def tell() -> Iterator[Tell]:
    """Starts directories, and gives their addresses."""
    with ExitStack() as life:

        def start(addresses: dict[str, str] | grpc.StatusCode) -> tuple[Directory, str]:
            server = grpc.server(ThreadPoolExecutor(4))
            api_endpoint_service_pb2_grpc.add_ApiEndpointServiceServicer_to_server(directory := Directory(addresses), server)
            port = server.add_insecure_port("127.0.0.1:0")
            server.start()
            life.callback(lambda: server.stop(None).wait())
            return directory, f"http://127.0.0.1:{port}"

        yield start


def everywhere(address: str) -> dict[str, str]:
    """All services at one address."""
    return dict.fromkeys(("ai-foundation-models", "operation", "iam"), address.removeprefix("http://"))


def test_a_region_is_an_address() -> None:
    """`ru` is where nothing is said, and wins over the environment; `kz` is known to its directory alone."""
    key = ApiKey("AQVN-key")
    assert resolve(credentials=key) == resolve(credentials=key, endpoint="ru")
    assert resolve(endpoint="ru").endpoint == resolve({"YANDEXART_ENDPOINT": "http://localhost:1"}, endpoint="ru").endpoint
    assert resolve().iam_endpoint == Endpoint("iam.api.cloud.yandex.net:443")
    for settings in resolve(endpoint="kz"), resolve({"YANDEXART_ENDPOINT": "kz"}):
        assert settings.discovery == Endpoint("api.yandexcloud.kz:443")
        assert not settings.endpoint.is_known
        assert not settings.operation_endpoint.is_known
    with pytest.raises(ConfigurationError, match="credentials: none given"):
        resolve(endpoint="kz", credentials=None)


def test_a_directory_stands_for_the_addresses_that_are_not_given() -> None:
    """It wins over the endpoint of the environment, and goes with no other that is given."""
    settings = resolve({"YANDEXART_ENDPOINT": "h:1"}, discovery="h:2", iam_endpoint="h:3")
    assert (settings.discovery, settings.endpoint.is_known, settings.iam_endpoint) == (Endpoint("h:2"), False, Endpoint("h:3"))
    wrong: tuple[tuple[dict[str, Any], str], ...] = (
        ({"discovery": "h:1", "endpoint": "h:2"}, "discovery: 'h:1' would tell the endpoint, which is given as 'h:2'"),
        ({"discovery": "demo://"}, "discovery: 'demo://' is a server inside a process"),
        ({"discovery": "h"}, "discovery: 'h' is none of"),
        ({"iam_endpoint": "h"}, "iam_endpoint: 'h' is none of"),
        ({"iam_endpoint": "demo://"}, "iam_endpoint: 'demo://' is a server inside a process"),
    )
    for arguments, words in wrong:
        with pytest.raises(ConfigurationError, match=words):
            resolve(**arguments)


async def test_a_directory_tells_where_proofs_are_exchanged(
    connect: Connect, foreign: Foreign, tell: Tell, life: ExitStack
) -> None:
    """The first call asks it before it fetches a token, and the next one needs neither."""
    iam = Iam()
    told, address = tell(everywhere(foreign.listen()) | {"iam": life.enter_context(iam.listening()).removeprefix("http://")})
    art = connect(endpoint=None, discovery=address, credentials=ServiceAccountKey(iam.account.file))
    await art.warm_up()
    await art.submit("a red cat")
    assert (len(told.asked), iam.asked) == (1, 1)
    assert foreign.submits[0].metadata["authorization"] == "Bearer t1.0"


async def test_a_directory_is_not_believed_to_exchange_proofs(
    connect: Connect, foreign: Foreign, names: str, tell: Tell, life: ExitStack
) -> None:
    """Neither a stranger that it names nor its own host gets one, and where it names nobody, that is told; tokens need none."""
    iam = Iam()
    here = everywhere(foreign.listen())
    for addresses, words in (
        (here | {"iam": "art.example.com:443"}, "iam_endpoint: 'art.example.com' is no host of Yandex"),
        (here | {"iam": "iam.api.cloud.yandex.net:80"}, "iam_endpoint: http://iam.* is plaintext"),
        ({name: address for name, address in here.items() if name != "iam"}, "iam_endpoint: no 'iam' among what it tells"),
    ):
        port = tell(addresses)[1].rpartition(":")[2]
        place = {"endpoint": None, "discovery": f"dns+http://{names}/art.example.com:{port}"}
        with pytest.raises(ConfigurationError, match=f"does not help: {words}"):
            await connect(**place, credentials=ServiceAccountKey(iam.account.file)).submit("a red cat")
        assert not foreign.calls
        await connect(**place, credentials="AQVN-canary").warm_up()
        said = {"iam_endpoint": life.enter_context(iam.listening()), "credentials": ServiceAccountKey(iam.account.file)}
        await connect(**place, **said).warm_up()
        foreign.calls.clear()


async def test_a_directory_is_asked_once_by_the_first_call(connect: Connect, server: Embedded) -> None:
    """Our server tells where it is itself, and a picture comes."""
    art = connect(endpoint=None, discovery=server.endpoint, credentials="AQVN-canary")
    image = await art.generate("a red cat", seed=1)
    assert (await (await art.operation(image.operation_id)).result()).data == image.data


@pytest.mark.parametrize("first", ["submit", "done", "warm_up", "cancel"])
async def test_whatever_comes_first_asks_the_directory(connect: Connect, server: Embedded, tell: Tell, first: str) -> None:
    """Each kind of call asks, the second does not, and no question carries the credential."""
    told, address = tell(everywhere(server.endpoint))
    submitted = await connect().submit("a red cat")
    art = connect(endpoint=None, discovery=address, credentials="AQVN-canary")
    assert told.asked == []
    handle = await art.operation(submitted.id)
    await {"submit": lambda: art.submit("a cat"), "done": handle.done, "warm_up": art.warm_up, "cancel": handle.cancel}[first]()
    await art.submit("a red cat")
    assert len(told.asked) == 1
    assert "authorization" not in told.asked[0]


async def test_many_first_calls_ask_the_directory_once(connect: Connect, server: Embedded, tell: Tell) -> None:
    """Those who come together wait for one answer."""
    told, address = tell(everywhere(server.endpoint))
    art = connect(endpoint=None, discovery=address)
    await asyncio.gather(*(art.submit("a red cat") for _ in range(20)))
    assert len(await collect(art, "map", ["a cat", "a dog"])) == 2
    assert len(told.asked) == 1


async def test_all_who_wait_for_a_mute_directory_are_told_together(connect: Connect, recorder: tuple[str, list[bytes]]) -> None:
    """Twenty first calls wait for one question, and not for twenty."""
    address, heard = recorder
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(20))  # each has its thread, so that all begin together
    art = connect(endpoint=None, discovery=f"http://{address}", rpc_timeout=0.4)
    ended = await asyncio.gather(*(art.submit("a red cat") for _ in range(20)), return_exceptions=True)
    assert {type(error) for error in ended} == {Unavailable}
    assert len({id(error) for error in ended}) == 20
    assert b"".join(heard).count(b"PRI * HTTP/2.0") == 1


async def test_a_directory_that_fails_is_named_and_asked_again(connect: Connect, server: Embedded, tell: Tell) -> None:
    """Nothing is ordered meanwhile; when it answers, the same client works."""
    told, address = tell(grpc.StatusCode.UNAVAILABLE)
    art = connect(endpoint=None, discovery=address)
    with pytest.raises(Unavailable, match=f"discovery: {address} did not tell .* not today") as caught:
        await art.submit("a red cat")
    assert (caught.value.billed, caught.value.resend) == ("no", "safe")
    handle = await art.operation("fbv00000000000000000")
    for ask in (handle.done, handle.result, handle.cancel):
        with pytest.raises(Unavailable, match="discovery: ") as caught:
            await ask()
        assert (caught.value.operation_id, caught.value.billed) == (handle.id, "yes")
    told.addresses = everywhere(server.endpoint)
    await art.submit("a red cat")
    with pytest.raises(ConfigurationError, match=r"discovery: .*UNIMPLEMENTED"):
        await connect(endpoint=None, discovery=Foreign().listen()).submit("a red cat")
    with pytest.raises(Unavailable, match=r"discovery: http://127\.0\.0\.1:1 did not tell"):
        await connect(endpoint=None, discovery="http://127.0.0.1:1").submit("a red cat")


@pytest.mark.parametrize(
    ("addresses", "words"),
    [
        ({}, "endpoint: no 'ai-foundation-models' among what it tells; operation_endpoint: no 'operation'"),
        (everywhere("nowhere"), "endpoint: .*nowhere.* is none of"),
        (everywhere("ftp://art:1"), "endpoint: .* is none of"),
        (everywhere("art.example.com:443"), "endpoint: 'art.example.com' is no host of Yandex"),
        (everywhere("llm.api.cloud.yandex.net:80"), "endpoint: http://llm.* is plaintext"),
    ],
)
@pytest.mark.parametrize("given", [True, False])
async def test_a_directory_that_lies_gets_no_key(
    connect: Connect, tell: Tell, addresses: dict[str, str], words: str, given: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may send a credential, given or of the environment, neither to a stranger nor over plaintext."""
    if not given:
        monkeypatch.setenv("YC_API_KEY", "AQVN-canary")
    art = connect(endpoint=None, discovery=tell(addresses)[1], credentials="AQVN-canary" if given else None)
    with pytest.raises(ConfigurationError, match=f"discovery: .* does not help: .*{words}"):
        await art.submit("a red cat")


async def test_a_key_never_leaves_for_a_host_that_it_was_not_meant_for(
    connect: Connect, foreign: Foreign, names: str, tell: Tell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever address leads to a stranger, he hears no call at all; the same one hears the key where that was said."""
    monkeypatch.setenv("YC_API_KEY", "AQVN-canary")
    port = foreign.listen().rpartition(":")[2]
    stranger = f"dns+http://{names}/art.example.com:{port}"
    wrong: tuple[dict[str, Any], ...] = (
        {"endpoint": stranger},
        {"endpoint": stranger, "allow_plaintext": True},
        {"endpoint": stranger, "credentials": "AQVN-canary"},
        {"operation_endpoint": stranger, "allow_plaintext": True},
        {"iam_endpoint": stranger, "allow_plaintext": True},
        {"endpoint": None, "discovery": tell(everywhere(f"stranger.invalid:{port}"))[1], "allow_plaintext": True},
        {"endpoint": f"images+http://art.example.com:{port}", "allow_plaintext": True},
    )
    for settings in wrong:
        with pytest.raises(ConfigurationError, match=r"no host of Yandex|is plaintext"):
            await connect(**settings).submit("a red cat")
    assert not foreign.calls
    await connect(endpoint=stranger, credentials="AQVN-canary", allow_plaintext=True).submit("a red cat")
    assert foreign.submits[0].metadata["authorization"] == "Api-Key AQVN-canary"
