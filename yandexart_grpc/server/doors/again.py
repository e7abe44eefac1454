"""The command and the program that make a picture again: what a prompt says is text in them, whatever it says."""

import shlex

from yandexart_grpc.request import DEFAULT_MODEL, ImageRequest

_NAMED = {"\n": r"\n", "\r": r"\r", "\t": r"\t", "\\": r"\\", "'": r"\'"}


def command(request: ImageRequest, *, endpoint: str, name: str) -> str | None:
    """The words for a shell that make the picture again, into a file of that name.

    None where there are none: for several texts with weights, and for NUL, which no shell can pass on.
    """
    texts = [message.text for message in request.messages]
    if len(texts) != 1 or request.messages[0].weight != 1 or "\0" in texts[0]:
        return None
    words = ["yandexart", "generate", "--endpoint", endpoint, "--folder-id", request.folder, "--output", f"{name}.jpeg"]
    for option, value in _options(request).items():
        words += [f"--{option.replace('_', '-')}", str(value)]
    line = " ".join(map(quoted, [*words, "--", texts[0]]))
    return f"echo - | {line}" if texts[0] == "-" else line  # which stands for stdin


def program(request: ImageRequest, *, endpoint: str, name: str) -> str:
    """A program in Python that makes the picture again, into a file of that name."""
    prompts = [message.text if message.weight == 1 else tuple(message) for message in request.messages]
    prompt = prompts[0] if len(prompts) == 1 and isinstance(prompts[0], str) else prompts
    options = "".join(f", {option}={value!r}" for option, value in _options(request).items())
    return (
        "from yandexart_grpc import YandexArt\n\n"
        f"with YandexArt(endpoint={endpoint!r}, folder_id={request.folder!r}) as art:\n"
        f"    image = art.generate({prompt!r}{options})\n"
        f'    image.save("{name}.jpeg")\n'
    )


def quoted(word: str) -> str:
    """A word as bash, zsh and ksh read it. What a terminal would obey, or not show, is written as an escape."""
    if word.isprintable():
        return shlex.quote(word)
    return "$'" + "".join(_NAMED.get(letter) or (letter if letter.isprintable() else _escaped(letter)) for letter in word) + "'"


def _escaped(letter: str) -> str:
    return f"\\x{ord(letter):02x}" if letter.isascii() else f"\\U{ord(letter):08x}"


def _options(request: ImageRequest) -> dict[str, str | int]:
    """What is not said otherwise."""
    options: dict[str, str | int] = {}
    if (model := request.model_uri.removeprefix(f"art://{request.folder}/")) != DEFAULT_MODEL:
        options["model"] = model
    if request.aspect_ratio != (0, 0):
        options["aspect_ratio"] = "{}:{}".format(*request.aspect_ratio)
    if request.seed:
        options["seed"] = request.seed
    return options
