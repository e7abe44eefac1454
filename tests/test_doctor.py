"""`yandexart doctor` names the cause, without an order and without a secret."""

import json
import re
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from click.testing import CliRunner

from tests.foreign import Foreign, refused
from tests.identity import Account, Iam, Metadata
from tests.test_addresses import certified
from yandexart_grpc.cli.app import yandexart
from yandexart_grpc.meaning import RETIRED
from yandexart_grpc.server import Embedded

Serve = Callable[..., Foreign]
KEY = "AQVN-canary"
DAY = timedelta(days=1)


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Makes servers that are not ours, and sees in the end that nobody ordered anything."""
    made: list[Foreign] = []

    def make(**script: Any) -> Foreign:
        made.append(Foreign(**script))
        return made[-1]

    yield make
    for server in made:
        server.close()
        assert server.submits == []


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    """A credential and a folder are set."""
    monkeypatch.setenv("YC_API_KEY", KEY)
    monkeypatch.setenv("YC_FOLDER_ID", "b1g")


def doctor(*arguments: str) -> tuple[int, dict[str, Any]]:
    """The exit code, and what was found; the text for people says the same, and neither holds the key."""
    text = CliRunner().invoke(yandexart, ["doctor", *arguments])
    told = CliRunner().invoke(yandexart, ["doctor", "--json", *arguments])
    assert "canary" not in text.output + told.output
    found = json.loads(told.stdout)
    assert isinstance(found, dict)
    assert text.exit_code == told.exit_code
    assert [line.split()[1] for line in text.stdout.splitlines() if line.startswith(("ok ", "FAILED "))] == steps(found)
    return told.exit_code, found


def steps(found: dict[str, Any]) -> list[str]:
    """The names of the steps that were tried."""
    return [step["step"] for step in found["steps"]]


def last(found: dict[str, Any]) -> tuple[str, str]:
    """The step that failed, and what it says."""
    step = found["steps"][-1]
    assert step["ok"] is False
    assert all(before["ok"] for before in found["steps"][:-1])
    return step["step"], step["says"]


def test_all_is_well(server: Embedded) -> None:
    """Each step is told, and the exit code is 0."""
    code, found = doctor("--endpoint", server.endpoint)
    assert (code, found["error"]) == (0, None)
    assert steps(found) == ["settings", "name", "connection", "server", "credential"]
    assert doctor("--endpoint", "demo://")[0] == 0


def test_each_setting_is_told_with_its_origin(monkeypatch: pytest.MonkeyPatch, server: Embedded) -> None:
    """The option, the variable, or neither; of the credential only that it is there, and by which variable."""
    monkeypatch.setenv("YANDEXART_ENDPOINT", server.endpoint)
    found = {setting["name"]: setting for setting in doctor("--rpc-timeout", "3")[1]["settings"]}
    origins = {name: setting["origin"] for name, setting in found.items()}
    assert origins["rpc_timeout"] == "--rpc-timeout"
    assert origins["endpoint"] == "YANDEXART_ENDPOINT"
    assert origins["folder_id"] == "YC_FOLDER_ID"
    assert origins["max_message_bytes"] == "default"
    assert found["credentials"] == {"name": "credentials", "value": "set", "origin": "YC_API_KEY"}
    assert found["endpoint"]["value"] == server.endpoint


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("YC_API_KEY", KEY, "ApiKey(<hidden>)"),
        ("YC_IAM_TOKEN", "t1.canary", "IamToken(<hidden>)"),
        ("YC_TOKEN", "t1.canary", "IamTokenVariable('YC_TOKEN')"),
    ],
)
def test_a_credential_is_told_with_its_origin(
    server: Embedded, monkeypatch: pytest.MonkeyPatch, name: str, value: str, kind: str
) -> None:
    """Its kind and its variable, and never what it is."""
    monkeypatch.delenv("YC_API_KEY")
    monkeypatch.setenv(name, value)
    code, found = doctor("--endpoint", server.endpoint)
    assert code == 0
    assert found["steps"][0]["says"].endswith(f"; the credential is {kind}, of {name}")
    assert {setting["name"]: setting["origin"] for setting in found["settings"]}["credentials"] == name


def test_a_token_is_fetched_in_a_step_of_its_own(serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The way to IAM is tried first; that it refuses the key is told, and else the steps after it use the token."""
    iam, file, service = Iam(), tmp_path / "key.json", serve()
    monkeypatch.delenv("YC_API_KEY")
    monkeypatch.setenv("YC_SERVICE_ACCOUNT_KEY_FILE", str(file))
    with iam.listening() as place:
        arguments = ("--endpoint", service.listen(), "--iam-endpoint", place)
        file.write_text(json.dumps(iam.account.file))
        code, found = doctor(*arguments)
        assert (code, iam.asked) == (0, 2)  # once in each of two runs
        assert found["steps"][0]["says"].endswith("ServiceAccountKey('ajekey'), of YC_SERVICE_ACCOUNT_KEY_FILE")
        assert steps(found) == ["settings", *("name", "connection") * 2, "token", "server", "credential"]
        assert re.search(r"gave one that holds for 4\d{4} s", found["steps"][-3]["says"])
        assert {read.metadata["authorization"] for read in service.reads} == {"Bearer t1.0", "Bearer t1.1"}
        file.write_text(json.dumps(Account().file))
        code, found = doctor(*arguments)
        assert (code, last(found)[0]) == (4, "token")
        assert "Signature verification failed" in last(found)[1]


def test_a_token_of_this_machine_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Yandex is meant, it comes from the metadata service, as the doctor says."""
    monkeypatch.delenv("YC_API_KEY")
    with Metadata().listening() as address, socket.create_server(("127.0.0.1", 0)) as closed:
        monkeypatch.setenv("YC_METADATA_ADDR", address)
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{closed.getsockname()[1]}")
        closed.close()
        found = doctor()[1]
    assert found["steps"][0]["says"].endswith(f"; the credential is MetadataService('{address}'), of this machine")


def test_no_credential(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Yandex is meant, one has to be there."""
    monkeypatch.delenv("YC_API_KEY")
    code, found = doctor()
    assert (code, last(found)[0]) == (2, "settings")
    assert "YC_API_KEY" in last(found)[1]


def test_a_host_that_the_key_is_not_meant_for() -> None:
    """It is found before anything is sent."""
    code, found = doctor("--endpoint", "https://art.example.com")
    assert (code, last(found)[0]) == (2, "settings")
    assert "YANDEXART_TRUSTED_HOST=art.example.com" in last(found)[1]


@pytest.mark.parametrize(
    ("code", "details", "exit_code", "words"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, "Unknown api key", 4, "No such API key"),
        (grpc.StatusCode.UNAUTHENTICATED, "The apikey has expired", 4, "The API key has ended"),
        (grpc.StatusCode.UNAUTHENTICATED, "Token is invalid or has expired.", 4, "twelve hours"),
        (grpc.StatusCode.PERMISSION_DENIED, "Permission denied", 5, "role ai.imageGeneration.user"),
        (grpc.StatusCode.PERMISSION_DENIED, "Access to model art://b1g/yandex-art/latest denied", 5, RETIRED),
        (grpc.StatusCode.PERMISSION_DENIED, "Access to model art:///yandex-art/latest denied", 5, "without a folder"),
        (grpc.StatusCode.FAILED_PRECONDITION, "Model yandex-art is not allowed", 2, RETIRED),
        (
            grpc.StatusCode.INVALID_ARGUMENT,
            "Specified folder ID 'b1g' does not match with service account folder ID 'b1gright'",
            2,
            "YC_FOLDER_ID to 'b1gright'",
        ),
    ],
)
def test_what_the_server_says_of_the_credential(
    serve: Serve, code: grpc.StatusCode, details: str, exit_code: int, words: str
) -> None:
    """Wrong keys, missing roles, wrong folders, retired models: with what the words of the service mean."""
    found_code, found = doctor("--endpoint", serve(stranger=refused(code, details)).listen())
    assert (found_code, last(found)[0]) == (exit_code, "credential")
    assert details in last(found)[1]
    assert words in last(found)[1]


def test_a_closed_port() -> None:
    """Nobody listens there."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    code, found = doctor("--endpoint", f"http://127.0.0.1:{port}")
    assert (code, last(found)[0]) == (8, "connection")
    assert "is that its port" in last(found)[1]


def test_an_unknown_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name is told."""
    monkeypatch.setenv("YANDEXART_TRUSTED_HOST", "no-such-host.invalid")
    code, found = doctor("--endpoint", "https://no-such-host.invalid")
    assert (code, last(found)[0]) == (8, "name")
    assert "no-such-host.invalid" in last(found)[1]


@pytest.mark.parametrize(
    ("name", "dates", "words"),
    [
        ("127.0.0.1", {"not_after": datetime.now(UTC) - DAY}, "has expired .* The clock of this machine says "),
        ("127.0.0.1", {"not_before": datetime.now(UTC) + DAY}, "is not valid yet .* The clock of this machine says "),
        ("art.example.com", {}, "is that of another host"),
    ],
)
def test_a_certificate_that_does_not_fit(serve: Serve, tmp_path: Path, name: str, dates: dict[str, Any], words: str) -> None:
    """Of another time, as it looks where the clock is a day off, or of another host."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    endpoint = serve().listen(credentials=certified(authority.issue_cert(name, **dates)))
    code, found = doctor("--endpoint", endpoint, "--root-certificates", str(tmp_path / "ca.pem"))
    assert (code, last(found)[0]) == (8, "certificate")
    assert re.search(words, last(found)[1])


def test_a_wrong_authority(serve: Serve, tmp_path: Path) -> None:
    """Without the right file, or with another."""
    authority = trustme.CA()
    endpoint = serve().listen(credentials=certified(authority.issue_cert("127.0.0.1")))
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    for arguments, words in (
        ([], "name a file with its own"),
        (["--root-certificates", str(tmp_path / "other.pem")], "--root-certificates holds another"),
    ):
        code, found = doctor("--endpoint", endpoint, *arguments)
        assert (code, last(found)[0]) == (8, "certificate")
        assert words in last(found)[1]
    authority.cert_pem.write_to_path(tmp_path / "right.pem")
    assert doctor("--endpoint", endpoint, "--root-certificates", str(tmp_path / "right.pem"))[0] == 0


def test_a_client_certificate_that_is_wanted(serve: Serve, tmp_path: Path) -> None:
    """It is asked for by name, and then accepted."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    authority.issue_cert("client").private_key_and_cert_chain_pem.write_to_path(tmp_path / "me.pem")
    wanted = certified(authority.issue_cert("127.0.0.1"), authority.cert_pem.bytes())
    secured = ["--endpoint", serve().listen(credentials=wanted), "--root-certificates", str(tmp_path / "ca.pem")]
    code, found = doctor(*secured)
    assert (code, last(found)[0]) == (8, "certificate")
    assert "--client-certificate" in last(found)[1]
    assert doctor(*secured, "--client-certificate", str(tmp_path / "me.pem"), "--client-key", str(tmp_path / "me.pem"))[0] == 0


def test_plaintext_where_tls_was_meant(serve: Serve) -> None:
    """The address that would be right is told."""
    endpoint = serve().listen()
    code, found = doctor("--endpoint", endpoint.replace("http", "https"))
    assert (code, last(found)[0]) == (8, "certificate")
    assert endpoint in last(found)[1]


class _Deaf(socketserver.StreamRequestHandler):
    """A proxy that lets nobody through."""

    def handle(self) -> None:
        self.rfile.readline()
        self.wfile.write(b"HTTP/1.1 403 Forbidden\r\n\r\n")


def test_a_proxy_in_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that refuses, and one that is not there; without its password."""
    with socketserver.TCPServer(("127.0.0.1", 0), _Deaf) as proxy:
        threading.Thread(target=proxy.serve_forever, args=(0.01,)).start()
        address = f"127.0.0.1:{proxy.server_address[1]}"
        monkeypatch.setenv("https_proxy", f"http://user:canary@{address}")
        code, found = doctor()
        assert (code, last(found)[0]) == (8, "proxy")
        assert address in last(found)[1]
        assert "403 Forbidden" in last(found)[1]
        assert "--no-proxy" in last(found)[1]
        proxy.shutdown()
    code, found = doctor()
    assert (code, last(found)[0]) == (8, "connection")
    assert "--no-proxy" in last(found)[1]


def test_a_directory_is_asked_and_followed(server: Embedded) -> None:
    """The steps to it come first, then those to where it sends orders."""
    code, found = doctor("--discovery", server.endpoint)
    assert code == 0
    assert steps(found) == ["settings", *("name", "connection", "discovery"), *("name", "connection"), "server", "credential"]


def test_a_directory_that_tells_nothing(serve: Serve) -> None:
    """It is the step that fails."""
    code, found = doctor("--discovery", serve().listen())
    assert (code, last(found)[0]) == (2, "discovery")
    assert "UNIMPLEMENTED" in last(found)[1]


def test_live_pictures_are_not_ordered_to_try_the_key() -> None:
    """The way to the Images API is tried as far as it costs nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        code, found = doctor("--endpoint", f"images+http://127.0.0.1:{listener.getsockname()[1]}")
        assert code == 0
        assert steps(found) == ["settings", "name", "connection", "server", "credential"]
        assert "would take an order" in found["steps"][-1]["says"]
