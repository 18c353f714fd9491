"""Prints what a client that offers what wrk offers agrees on with a server: version, cipher.

Usage: OPENSSL_CONF=client.cnf negotiated.py PORT NAME ROOTS. The certificate must be good for the name.
"""

from __future__ import annotations

import socket
import ssl
import sys


def main() -> None:
    """Shake hands once; whatever is wrong with it is the exit's message."""
    port, name, roots = sys.argv[1:]
    context = ssl.create_default_context(cafile=roots)
    try:
        with (
            socket.create_connection(("127.0.0.1", int(port)), 10) as raw,
            context.wrap_socket(raw, server_hostname=name) as agreed,
        ):
            print(agreed.version(), (agreed.cipher() or ["no cipher"])[0])
    except OSError as error:
        sys.exit(f"no handshake: {error}")


if __name__ == "__main__":
    main()
