"""Certificates from ACME directories (RFC 8555): the one place that imports txacme, acme and josepy.

``service``     what orders, renews, waits and gives up: txacme's service, with judgement of its own
``schedule``    which names are to have a certificate, and when each is looked at; ``renewal`` decides
``jobs``        one order for each name, a few at once; ``leases`` among processes, ``budget`` for domains
``orders``      from a name to its certificate; ``responders`` answer challenges, ``stored`` keeps what came
``asking``      the authority's opinion on when to renew; ``cleaning`` forgets
``client``      one directory under one account key: ``signing``, ``fetching``, ``objects``, ``problems``
``accounts``    account keys and accounts, kept in the store
``dns``         the interface of DNS providers; ``rfc2136`` is one, ``nameservers`` waits for them
``daemons``     threads for name servers that hang
``check``       what would stop an order: ``resolving``, ``caa``, ``probes``, told by ``findings``
``domains``     the registered domain of a name
"""
