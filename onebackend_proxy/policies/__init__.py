"""Pure decisions at the front desk: no reactor, no socket, time is passed in.

`access` who may come in, `rate` how often, `editing` what changes in heads, `compression` how an answer is
encoded, `caching` what may be stored and for how long.
"""
