"""How much of what a client sent an error may repeat: enough to find it, and no more."""

from __future__ import annotations

MAX_ECHO = 64


def shortened(text: str) -> str:
    """The text, or its beginning where it is long."""
    return text if len(text) <= MAX_ECHO else f"{text[: MAX_ECHO - 1]}…"


def quoted(value: object) -> str:
    """The value as Python writes it, shortened."""
    text = repr(value)
    return text if len(text) <= MAX_ECHO else f"{text[: MAX_ECHO - 2]}…{text[-1]}"


def bounded(message: str) -> str:
    """A message of a rule that may quote what was sent: all that is quoted is cut, not what is said of it."""
    # What is quoted ends at the last quote: one within the value comes before that.
    last_quote = max(message.rfind("'"), message.rfind('"'))
    if last_quote <= MAX_ECHO:
        return message
    return shortened(message[: last_quote + 1]) + message[last_quote:]
