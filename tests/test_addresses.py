"""Addresses: where a credential may go, who is believed to be there, and how the way is found."""

from typing import Any

import pytest

from tests.test_settings import resolve
from yandexart_grpc import AsyncYandexArt, ConfigurationError, YandexArt
from yandexart_grpc.address import Endpoint

KEY = {"YC_API_KEY": "AQVN-canary"}


class TestTrust:
    @pytest.mark.parametrize(
        "endpoint",
        [
            *("https://llm.api.cloud.yandex.net", "https://LLM.API.cloud.yandex.net.", "api.yandexcloud.kz:443"),
            *("http://127.0.0.1:1", "http://127.9.9.9:1", "http://[::1]:1", "http://localhost:1", "dns+http:///localhost:1"),
            *("demo://", "images://", "images://ai.api.cloud.yandex.net", "images+http://127.0.0.1:1"),
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
