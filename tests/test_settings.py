"""Settings: arguments, environment, and what is said of wrong ones."""

from pathlib import Path
from typing import Any

import pytest

from yandexart_grpc import AsyncYandexArt, ConfigurationError, YandexArt
from yandexart_grpc.address import Endpoint
from yandexart_grpc.settings import Limits, Settings

DEFAULTS: dict[str, Any] = {
    "folder_id": "b1g",
    "credentials": "AQVN-key",
    "endpoint": None,
    "operation_endpoint": None,
    "root_certificates": None,
    "history": None,
    "store": None,
}
LIMITS: dict[str, Any] = {
    "timeout": 60.0,
    "rpc_timeout": 10.0,
    "max_message_bytes": 1000,
    "patience": None,
    "reads_per_second": 45.0,
    "submits_per_minute": 500.0,
}
NO_MACHINE = {"YC_METADATA_ADDR": "127.0.0.1:1"}
"""Where no metadata service answers; without a PATH there is no `yc` either."""


def resolve(environ: dict[str, str] | None = None, **arguments: Any) -> Settings:
    limits = {name: arguments.pop(name, value) for name, value in LIMITS.items()}
    return Settings.resolve(**DEFAULTS | arguments, limits=Limits(**limits), environ=NO_MACHINE | (environ or {}))


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("https://host", Endpoint("host:443")),
        ("https://host:8443/", Endpoint("host:8443")),
        ("host:443", Endpoint("host:443")),
        ("http://127.0.0.1:50051", Endpoint("127.0.0.1:50051", plaintext=True)),
        ("http://[::1]:50051", Endpoint("[::1]:50051", plaintext=True)),
        ("demo://", Endpoint("", embedded="demo")),
        ("images://", Endpoint("", embedded="images")),
        ("images://host", Endpoint("", embedded="images", upstream="https://host:443")),
        ("images://[::1]:8443/", Endpoint("", embedded="images", upstream="https://[::1]:8443")),
        ("images+http://127.0.0.1:8080", Endpoint("", embedded="images", upstream="http://127.0.0.1:8080")),
    ],
)
def test_an_endpoint_is_read(text: str, endpoint: Endpoint) -> None:
    """Every documented form of an address is read as documented."""
    assert Endpoint.parse(text) == endpoint


@pytest.mark.parametrize(
    "text",
    [
        *("ftp://host:1", "host", "http://host", "host:0", "host:99999", "http://host:1/path", "demo://x", "a b:1", "https://"),
        *("images", "images://host:0", "images://user@host", "images+http://host", "images+https://host"),
    ],
)
def test_an_unknown_endpoint_is_refused_with_the_known_forms(text: str) -> None:
    """An address of another form is named, together with the forms there are."""
    with pytest.raises(ConfigurationError, match=r"endpoint: .*https://host\[:port\], host:port"):
        resolve(endpoint=text)


def test_without_an_endpoint_it_is_yandex_cloud() -> None:
    """Generation and operations have different hosts at Yandex."""
    settings = resolve()
    assert settings.endpoint == Endpoint("llm.api.cloud.yandex.net:443")
    assert settings.operation_endpoint == Endpoint("operation.api.cloud.yandex.net:443")


def test_one_endpoint_serves_both() -> None:
    """Where only `endpoint` is given, operations are read there too."""
    assert resolve(endpoint="h:1").operation_endpoint == Endpoint("h:1")
    assert resolve(endpoint="h:1", operation_endpoint="o:2").operation_endpoint == Endpoint("o:2")


def test_the_environment_fills_in_and_arguments_win() -> None:
    """What is not given comes from the environment."""
    environ = {"YC_FOLDER_ID": "env", "YC_IAM_TOKEN": "t1.token", "YANDEXART_ENDPOINT": "http://localhost:1"}
    settings = resolve(environ, folder_id=None, credentials=None)
    assert (settings.folder_id, settings.endpoint.target) == ("env", "localhost:1")
    assert settings.metadata() == (("authorization", "Bearer t1.token"),)
    settings = resolve(environ, endpoint="https://h:2")
    assert (settings.folder_id, settings.endpoint.target) == ("b1g", "h:2")
    assert settings.metadata() == (("authorization", "Api-Key AQVN-key"),)


def test_a_server_of_ones_own_needs_no_credential() -> None:
    """No credential is needed where an endpoint is given, and none is sent."""
    assert resolve(credentials=None, endpoint="http://h:1").metadata() == ()


def test_the_demo_needs_nothing() -> None:
    """`demo://` brings its own folder."""
    assert resolve(folder_id=None, credentials=None, endpoint="demo://").folder_id == "demo"


@pytest.mark.parametrize("endpoint", ["images://", "images+http://127.0.0.1:1"])
def test_live_pictures_need_what_yandex_needs(endpoint: str) -> None:
    """A credential, and a folder of one's own."""
    with pytest.raises(ConfigurationError, match="credentials: none given"):
        resolve(credentials=None, endpoint=endpoint)
    assert resolve(folder_id=None, endpoint=endpoint).folder_id is None


def test_a_server_in_this_process_may_keep_its_operations() -> None:
    """Where an argument says or the environment; None where neither does."""
    assert resolve(endpoint="demo://").store is None
    assert resolve({"YANDEXART_STORE": "sqlite:///x"}, endpoint="images://").store == "sqlite:///x"
    assert resolve({"YANDEXART_STORE": "sqlite:///x"}, endpoint="demo://", store="sqlite:///y").store == "sqlite:///y"


@pytest.mark.parametrize(
    ("environ", "arguments", "words"),
    [
        ({}, {"store": "sqlite:///x"}, "store: 'sqlite:///x' is for a server in this process"),
        ({"YANDEXART_STORE": "x"}, {"endpoint": "http://h:1"}, "store: 'x' is for a server in this process"),
        ({}, {"credentials": None}, "credentials: none given, and none found .YC_API_KEY: not set; "),
        ({}, {"credentials": "AQVN\nkey"}, "credentials: 8 characters that hold a line break"),
        ({}, {"credentials": ""}, "credentials: empty"),
        ({"YC_API_KEY": "a b"}, {"credentials": None}, "YC_API_KEY: 3 characters"),
        ({"YC_TOKEN": "a b"}, {"credentials": None}, "YC_TOKEN: 3 characters"),
        ({"YC_SERVICE_ACCOUNT_KEY_FILE": "/nowhere/key"}, {"credentials": None}, "YC_SERVICE_ACCOUNT_KEY_FILE: .*'/nowhere/key'"),
        ({}, {"credentials": 5}, "credentials: int is neither a text nor a credential"),
        ({}, {"iam_endpoint": "x"}, "iam_endpoint: 'x'"),
        ({}, {"folder_id": "a/b"}, "folder_id: 'a/b'"),
        ({}, {"timeout": 0}, "timeout: 0 is not a positive number of seconds"),
        ({}, {"timeout": float("inf")}, "timeout: inf"),
        ({}, {"timeout": "1"}, "timeout: '1'"),
        ({}, {"rpc_timeout": -1}, "rpc_timeout: -1"),
        ({}, {"rpc_timeout": None}, "rpc_timeout: 0 is not a positive"),
        ({}, {"patience": 0}, "patience: 0 is not a positive number of seconds"),
        ({}, {"reads_per_second": 0}, "reads_per_second: 0 is not a positive number"),
        ({}, {"submits_per_minute": float("nan")}, "submits_per_minute: nan is not a positive number"),
        ({}, {"max_message_bytes": 2**31}, "max_message_bytes: 2147483648 is not an integer from 1 to 2147483647"),
        ({}, {"root_certificates": "/nowhere/ca.pem"}, "root_certificates: .*'/nowhere/ca.pem'"),
        ({}, {"root_certificates": __file__}, "root_certificates: .* holds no PEM certificate"),
        ({}, {"operation_endpoint": "x"}, "operation_endpoint: 'x'"),
    ],
)
def test_a_wrong_setting_is_named(environ: dict[str, str], arguments: dict[str, Any], words: str) -> None:
    """What is wrong is named: setting, value and limit."""
    with pytest.raises(ConfigurationError, match=words):
        resolve(environ, **arguments)


def test_all_wrong_settings_are_named_at_once() -> None:
    """Several mistakes give one error that names each of them."""
    with pytest.raises(ConfigurationError) as caught:
        resolve(credentials=None, endpoint=None, folder_id="a/b", timeout=-1, operation_endpoint="ftp://x")
    for name in ("credentials", "folder_id", "timeout", "operation_endpoint"):
        assert f"{name}: " in str(caught.value)


def test_a_secret_is_never_shown(tmp_path: Path) -> None:
    """Neither the settings nor the error about a malformed credential show it."""
    settings = resolve(credentials="AQVN-secret")
    assert "secret" not in repr(settings)
    with pytest.raises(ConfigurationError) as caught:
        resolve(credentials="AQVN-secret\n-more")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("kind", [YandexArt, AsyncYandexArt])
def test_both_clients_judge_their_settings_when_they_are_made(kind: type[YandexArt | AsyncYandexArt]) -> None:
    """A wrong setting is an error of the constructor, also a ValueError, and nothing is billed."""
    with pytest.raises(ValueError, match="timeout: -1") as caught:
        kind(endpoint="demo://", timeout=-1)
    assert isinstance(caught.value, ConfigurationError)
    assert caught.value.billed == "no"
