"""TLS on the edge: which certificate a client is shown, and where certificates come from.

``client_hello``  what a client says first: the name it wants, the protocols it speaks
``contexts``      from that name to the context that shows its certificate; few are held
``transport``     TLS on a connection's own socket, begun once the context is known
``endpoint``      the server endpoint made of these
``pem``           blocks of PEM text, and the private key among them
``certificates``  a bundle checked once and for all, and the table that finds a certificate for a name
``authority``     certificates of our own for localhost and IP addresses
``files``         certificates as files, for other programs
"""

from __future__ import annotations
