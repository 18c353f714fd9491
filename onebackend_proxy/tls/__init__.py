"""TLS on the edge: which certificate a client is shown, and where certificates come from.

``pem``           blocks of PEM text, and the private key among them
``certificates``  a bundle checked once and for all, and the table that finds a certificate for a name
``authority``     certificates of our own for localhost and IP addresses
``files``         certificates as files, for other programs
"""

from __future__ import annotations
