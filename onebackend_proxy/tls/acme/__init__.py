"""Certificates from ACME directories (RFC 8555): the one place that imports txacme, acme and josepy.

``client``      one directory under one account key; ``problems`` what it says when it refuses
``accounts``    account keys and accounts, kept in the store
``responders``  how a challenge is answered: through the store (HTTP-01, TLS-ALPN-01), or by DNS
``dns``         the interface of DNS providers; ``rfc2136`` is one
``renewal``     when to renew and when to try again; ``domains`` whose budget an order is on
``orders``      from a name to its certificate
``service``     what orders, renews, waits and gives up
``check``       what would stop an order
"""
