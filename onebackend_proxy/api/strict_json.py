"""JSON read strictly (RFC 8259, I-JSON's unique names): no two parsers may disagree."""

from __future__ import annotations

import json
from typing import Any

from ..errors import BadRequest
from .echo import quoted


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the field {quoted(name)} is there twice")
        found[name] = value
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def parse_json(content: bytes) -> Any:
    """Parse strictly (RFC 8259, names unique); `errors.BadRequest` says what is wrong and where."""
    if not content.strip():
        raise BadRequest("the body is empty: a JSON object is expected")
    try:
        return json.loads(content.decode("utf-8"), object_pairs_hook=_no_repeats, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise BadRequest(f"the body is not UTF-8, from byte {error.start} on") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise BadRequest(f"the body is not JSON: {error.msg} ({where})") from None
    except RecursionError:
        raise BadRequest("the body is not acceptable JSON: nested too deeply") from None
    except ValueError as error:
        raise BadRequest(f"the body is not acceptable JSON: {error}") from None
