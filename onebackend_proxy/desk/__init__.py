"""The front desk: what the policy of a Route, or of a service, does to its exchanges.

`guard` is a policy made ready, `exchange` the life of a request that passes it, `filters` what an answer goes
through on its way to the client. Where no policy is, nothing of it is asked.
"""
