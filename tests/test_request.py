"""Requests: what is sent for what a user gave, and what is refused before anything is sent."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yandexart_grpc import InvalidRequest, Message
from yandexart_grpc.request import LARGEST, ImageRequest
from yandexart_grpc.stubs import ImageGenerationRequest


def build(prompt: Any = "a cat", *, folder_id: str | None = "b1g", **kwargs: Any) -> ImageRequest:
    return ImageRequest.build(prompt, folder_id=folder_id, **kwargs)


def test_a_request_says_what_was_asked() -> None:
    """Every argument reaches the message."""
    prompt = ["a red cat", ("a window", 0.5), Message("rain", -1.0)]
    sent = build(prompt, model="yandex-art-2.0", aspect_ratio="16:9", seed=42).to_proto()
    assert sent.model_uri == "art://b1g/yandex-art-2.0"
    assert [(message.text, message.weight) for message in sent.messages] == [("a red cat", 1), ("a window", 0.5), ("rain", -1)]
    options = sent.generation_options
    assert (options.seed, options.mime_type) == (42, "image/jpeg")
    assert (options.aspect_ratio.width_ratio, options.aspect_ratio.height_ratio) == (16, 9)


def test_a_whole_model_uri_is_taken_as_it_is() -> None:
    """A whole URI needs no folder beside it."""
    assert build(model="art://other/yandex-art/latest", folder_id=None).model_uri == "art://other/yandex-art/latest"


def test_a_seed_is_drawn_where_none_is_given() -> None:
    """Without a seed one is drawn, never 0, which would leave it to the service; so the result always knows its seed."""
    seeds = {build().seed for _ in range(50)}
    assert len(seeds) == 50
    assert all(1 <= seed <= LARGEST for seed in seeds)


def test_no_ratio_is_left_to_the_service() -> None:
    """Without a ratio the field is absent."""
    assert not build().to_proto().generation_options.HasField("aspect_ratio")


@given(
    st.lists(st.tuples(st.text(min_size=1, max_size=20), st.sampled_from([1.0, 0.5, -1.0])), min_size=1, max_size=5),
    st.integers(1, LARGEST),
    st.tuples(st.integers(1, LARGEST), st.integers(1, LARGEST)),
)
def test_a_request_survives_the_wire(messages: list[tuple[str, float]], seed: int, ratio: tuple[int, int]) -> None:
    """What the server reads is what the client was asked for."""
    try:
        request = build(messages, seed=seed, aspect_ratio=ratio)
    except InvalidRequest as error:
        assert "prompt" in str(error)  # noqa: PT017  # blank, or nothing of positive weight
        return
    sent = request.to_proto().SerializeToString()
    assert ImageRequest.from_proto(ImageGenerationRequest.FromString(sent)) == request


def test_the_limit_counts_characters_of_positive_messages_together() -> None:
    """500 characters are enough for all positive messages together; negative ones do not count."""
    build(["я" * 250, "y" * 250, ("z" * 900, -1)])
    with pytest.raises(InvalidRequest, match=r"^Prompt positive size 501 exceeds limit \(500\)$"):
        build(["я" * 250, "y" * 251])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"prompt": ""}, "prompt: empty"),
        ({"prompt": " \n"}, "prompt: empty"),
        ({"prompt": []}, "prompt: empty"),
        ({"prompt": [("dogs", -1)]}, "prompt: empty"),
        ({"prompt": None}, "prompt: None is not a text"),
        ({"prompt": b"cat"}, "prompt: b'cat' is not a text"),
        ({"prompt": [3]}, "prompt: 3 is not a text"),
        ({"prompt": "\ud800"}, "lone surrogate"),
        ({"prompt": [("cat", float("nan"))]}, "weight: nan"),
        ({"prompt": [("cat", "1")]}, "weight: '1'"),
        ({"prompt": [("cat", 0)]}, "weight: 0"),
        ({"seed": 0}, "seed: 0 .* 9223372036854775807"),
        ({"seed": -1}, "seed: -1 is not an integer from 1 to 9223372036854775807"),
        ({"seed": 2**63}, "seed: 9223372036854775808"),
        ({"seed": 1.5}, r"seed: 1\.5"),
        ({"seed": True}, "seed: True"),
        ({"seed": "42"}, "seed: '42'"),
        ({"aspect_ratio": "0:1"}, "aspect_ratio: .0, 1. is not two integers from 1"),
        ({"aspect_ratio": "16x9x3"}, "aspect_ratio: '16x9x3'"),
        ({"aspect_ratio": "16x9"}, "aspect_ratio: '16x9'"),
        ({"aspect_ratio": (16, -9)}, "aspect_ratio"),
        ({"aspect_ratio": (16, 9, 3)}, "aspect_ratio"),
        ({"aspect_ratio": (2**63, 1)}, "aspect_ratio"),
        ({"aspect_ratio": 1.5}, r"aspect_ratio: 1\.5"),
        ({"mime_type": "image/png"}, "mime_type: 'image/png' is not 'image/jpeg'"),
        ({"model": "art:///yandex-art/latest"}, "model_uri: 'art:///yandex-art/latest' .* folder_id"),
        ({"model": "art://b1g"}, "model_uri: 'art://b1g'"),
        ({"model": ""}, "model_uri"),
        ({"model": None}, "model_uri"),
        ({"folder_id": None}, "model_uri: .* give folder_id"),
    ],
)
def test_bad_input_is_named(arguments: dict[str, Any], words: str) -> None:
    """What is wrong is named: field, value and limit; nothing was sent, so resending is safe."""
    with pytest.raises(InvalidRequest, match=words) as caught:
        build(**arguments)
    assert (caught.value.billed, caught.value.resend) == ("no", "safe")


def test_all_problems_are_named_at_once() -> None:
    """Several mistakes give one error that names each of them."""
    with pytest.raises(InvalidRequest) as caught:
        build("", folder_id=None, seed=0, aspect_ratio="0:1", mime_type="image/png")
    for field in ("prompt", "model_uri", "seed", "aspect_ratio", "mime_type"):
        assert f"{field}: " in str(caught.value)


SCALARS = st.none() | st.text() | st.binary() | st.integers() | st.floats()


@given(SCALARS | st.lists(SCALARS | st.tuples(SCALARS) | st.tuples(SCALARS, SCALARS)))
def test_no_argument_brings_another_error(value: Any) -> None:
    """Whatever a user passes, there is a request or an InvalidRequest."""
    for name in ("prompt", "seed", "aspect_ratio", "mime_type", "model"):
        try:
            build(**{name: value}).to_proto()
        except InvalidRequest as error:
            assert str(error)  # noqa: PT017  # either outcome is right
