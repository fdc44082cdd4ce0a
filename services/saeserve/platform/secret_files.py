"""Secrets that stand in files, as containers and Kubernetes give them."""

from __future__ import annotations

import logging
import stat
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

from saeserve.errors import StartupError
from saeserve.platform.startup_errors import bad_setting

log = logging.getLogger(__name__)

_MIN_LENGTH = 12
_MIN_CHARACTERS = 6
PLACEHOLDERS = (
    *("changeme", "change-me", "password", "passw0rd", "secret", "example", "replace", "<", "${"),
    *("qwerty", "letmein", "1234567", "abcdefg", "default", "placeholder", "your-", "your_"),
)
"""Parts of secrets that are guessed first; deploy/compose/secrets.sh refuses the same ones."""


def read_secret(path: Path) -> str:
    """The text in a file, without the end of its line.

    Raises StartupError for a file that cannot be read, is empty, is not one word, or holds what is
    easily guessed. The errors do not show the text.
    """
    try:
        text = path.read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise _wrong(
            f"the secret file {path} cannot be read: {why}", reason="SECRET_UNREADABLE"
        ) from None
    if not text:
        raise _wrong(f"the secret file {path} is empty", reason="SECRET_MISSING")
    if why := _easily_guessed(text):
        raise _wrong(f"the secret in {path} {why}", reason="SECRET_WEAK")
    if any(each.isspace() or not each.isprintable() for each in text):
        raise _wrong(
            f"the secret in {path} holds white space or control characters: it has to be one word",
            reason="SECRET_MALFORMED",
        )
    warn_of_readers(path)
    return text


def _easily_guessed(text: str) -> str:
    """Why, in words; "" when it is not."""
    if len(text) < _MIN_LENGTH:
        return f"is shorter than {_MIN_LENGTH} characters"
    if any(word in text.lower() for word in PLACEHOLDERS):
        return "is a placeholder, or holds a word that is tried first"
    if len(set(text)) < _MIN_CHARACTERS or text in (text + text)[1:-1]:
        return "repeats few characters"
    return ""


def warn_of_readers(path: Path) -> None:
    """Log it when every user of this machine can read the file."""
    if path.stat().st_mode & stat.S_IROTH:
        log.warning("every user of this machine can read the secret in %s: chmod 600", path)


def with_password(url: str, password: str) -> str:
    """`url` of a Redis server with `password`; its user, if any, stays. Raises StartupError for a
    URL that has a password already."""
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    if ":" in user:
        raise bad_setting(
            "SAESERVE_REDIS_URL holds a password, and so does SAESERVE_REDIS_PASSWORD_FILE",
            remedy="take the password out of the URL",
        )
    return urlunsplit(parts._replace(netloc=f"{user}:{quote(password, safe='')}@{host}"))


def _wrong(
    message: str,
    reason: str,
    remedy: str = "write a long random text to it, as from: openssl rand -hex 32",
) -> StartupError:
    return StartupError(message, code=reason, remedy=remedy)
