"""What the service's words mean where they mislead (contract/service.md, "Errors seen"): one table, for errors and `doctor`."""

import re
from typing import NamedTuple

from grpc import StatusCode

IMAGES_API = "Images API"
"""What the `images` backend names in its words, so that nobody is sent there who comes from there."""
RIGHTS = "role ai.imageGeneration.user, scope yc.ai.imageGeneration.execute"
RETIRED = (
    "Seen since September 2026: Yandex's asynchronous API denies its models also to those who have every right"
    f" ({RIGHTS}), while its Images API still draws."
    " These use it: endpoint='images://', `yandexart generate --endpoint images://`, `yandexart serve --backend images`"
)
"""What is known of a model that cannot be used, and what works (contract/service.md, "Since September 2026")."""

REFUSALS = ("violate the terms of use", "Я не могу сгенерировать это изображение")
"""How the service words a refusal by its content rules."""


class Meaning(NamedTuple):
    """One line of the table."""

    code: StatusCode
    words: re.Pattern[str]
    says: str
    """May take up groups of the words."""


TABLE = (
    # For want of a role or a scope, and of a model that is retired or not on that API.
    Meaning(StatusCode.PERMISSION_DENIED, re.compile(r"Access to model art://[^/\s]+/\S+ denied|not allowed"), RETIRED),
    Meaning(StatusCode.FAILED_PRECONDITION, re.compile(r"Access to model art://[^/\s]+/\S+ denied|not allowed"), RETIRED),
    Meaning(
        StatusCode.PERMISSION_DENIED,
        re.compile(r"Access to model art:///\S+ denied"),
        "The model was asked for without a folder: set folder_id, --folder-id or YC_FOLDER_ID",
    ),
    Meaning(
        StatusCode.PERMISSION_DENIED,
        re.compile(r"(?i)^permission denied"),
        f"The account of this credential lacks a right in the folder ({RIGHTS}): have the role given to it there, and make"
        " an API key that has the scope",
    ),
    Meaning(
        StatusCode.INVALID_ARGUMENT,
        re.compile(r"folder ID '[^']*' does not match with service account folder ID '([^']*)'"),
        r"The credential belongs to another folder: set folder_id, --folder-id or YC_FOLDER_ID to '\1', or take a credential of"
        " the folder that was meant",
    ),
    Meaning(
        StatusCode.UNAUTHENTICATED,
        re.compile(r"Unknown api key"),
        "No such API key: it was copied in part, or deleted. A new one is shown once, when it is made",
    ),
    Meaning(StatusCode.UNAUTHENTICATED, re.compile(r"(?i)api ?key has expired"), "The API key has ended: make a new one"),
    Meaning(
        StatusCode.UNAUTHENTICATED,
        re.compile(r"Token is invalid or has expired"),
        "An IAM token holds for twelve hours at the most: `yc iam create-token` makes a new one.",
    ),
)


def meaning(code: StatusCode, details: str) -> str | None:
    """What these words of the service mean; None where they say it themselves."""
    for known in TABLE:
        if (
            known.code is code
            and (found := known.words.search(details))
            and not (known.says is RETIRED and IMAGES_API in details)
        ):
            return found.expand(known.says)
    return None


def refuses(details: str) -> bool:
    """Whether these words of the service refuse a prompt."""
    return any(words in details for words in REFUSALS)
