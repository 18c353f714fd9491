"""The server's side of an HTTP/2 connection as `h2` keeps it: our settings, and what bounds its memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes, Settings
from hpack import Encoder

MAX_STREAMS = 100
"""Requests under way on one connection; more are refused, and may be made again (RFC 9113, 5.1.2)."""
TOO_MANY_STREAMS = 200
"""Streams at which `h2` ends the connection: a client may not have read our settings yet."""
WINDOW = 65535
"""Bytes of one request's body that may be on their way."""
CONNECTION_WINDOW = 1024 * 1024
"""Bytes of all bodies together that may be on their way: many that wait hold up the others."""
TABLE_SIZE = 4096
"""Bytes of fields that answers refer back to, however many more a client would remember (RFC 7541, 4.2)."""

# What h2 would check in requests is checked in http2_fields; what goes out is ours, or checked in `headers`.
_CONFIG = H2Configuration(
    client_side=False,
    validate_inbound_headers=False,
    normalize_inbound_headers=False,
    validate_outbound_headers=False,
    normalize_outbound_headers=False,
)


def new_connection(head_size: int) -> H2Connection:
    """The server's side of a connection, which has said its settings."""
    connection = H2Connection(_CONFIG)
    connection.local_settings = Settings(
        client=False,
        initial_values={
            SettingCodes.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
            SettingCodes.INITIAL_WINDOW_SIZE: WINDOW,
            SettingCodes.MAX_HEADER_LIST_SIZE: head_size,
        },
    )
    connection.initiate_connection()
    connection.increment_flow_control_window(CONNECTION_WINDOW - WINDOW)
    # What was announced is kept to here, with an answer; where h2 keeps to it, the connection ends.
    connection.local_settings[SettingCodes.MAX_CONCURRENT_STREAMS] = TOO_MANY_STREAMS
    connection.local_settings.acknowledge()
    connection.decoder.max_header_list_size = 2 * head_size
    return connection


def list_size(fields: Sequence[Any]) -> int:
    """The size of a header list, as MAX_HEADER_LIST_SIZE counts it (RFC 9113, 6.5.2)."""
    return sum(len(name) + len(value) for name, value in fields) + 32 * len(fields)


def bound_encoder(encoder: Encoder) -> None:
    """Keep what answers refer back to within `TABLE_SIZE`, whatever the client has said of its own memory."""
    if encoder.header_table_size > TABLE_SIZE:
        encoder.header_table_size = TABLE_SIZE
    changes = encoder.table_size_changes
    if len(changes) > 1:
        # The least of them, and the last, may stand in front of a head (RFC 7541, 4.2).
        encoder.table_size_changes = sorted({min(changes), changes[-1]})
