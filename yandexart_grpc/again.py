"""The command and the program that make a picture again: what a prompt says is text in them, whatever it says."""

import shlex

from yandexart_grpc.request import DEFAULT_MODEL, ImageRequest

_NAMED = {"\n": r"\n", "\r": r"\r", "\t": r"\t", "\\": r"\\", "'": r"\'"}


def command(prompt: str, **options: str | int | None) -> str | None:
    """The words for a shell that order the prompt, with these options of `yandexart generate`: None and "" are left out, and True
    is a flag. None for a prompt with NUL, which no shell can pass on.
    """
    if "\0" in prompt:
        return None
    words = list[str]()
    for option, value in options.items():
        if value not in (None, ""):
            words += [f"--{option.replace('_', '-')}", *([] if value is True else [str(value)])]
    words = [*words, "--", prompt] if prompt.startswith("-") else [prompt, *words]
    line = " ".join(map(_quoted, ["yandexart", "generate", *words]))
    return f"echo - | {line}" if prompt == "-" else line  # which stands for stdin


def command_of(request: ImageRequest, *, endpoint: str, name: str) -> str | None:
    """The command that makes the picture of a request again, into a file of that name; None also for several texts."""
    if len(request.messages) != 1 or request.messages[0].weight != 1:
        return None
    where = {"endpoint": endpoint, "folder_id": request.folder, "output": f"{name}.jpeg"}
    return command(request.messages[0].text, **where, **_options(request))


def program_of(request: ImageRequest, *, endpoint: str, name: str) -> str:
    """The program in Python that makes the picture of a request again, into a file of that name."""
    prompts = [message.text if message.weight == 1 else tuple(message) for message in request.messages]
    prompt = prompts[0] if len(prompts) == 1 and isinstance(prompts[0], str) else prompts
    options = "".join(f", {option}={value!r}" for option, value in _options(request).items())
    return (
        "from yandexart_grpc import YandexArt\n\n"
        f"with YandexArt(endpoint={endpoint!r}, folder_id={request.folder!r}) as art:\n"
        f"    image = art.generate({prompt!r}{options})\n"
        f'    image.save("{name}.jpeg")\n'
    )


def _quoted(word: str) -> str:
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
