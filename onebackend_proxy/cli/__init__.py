"""`oo`, the command line, a client of the HTTP API like any other.

client.py     one request to the API, and what can go wrong with it, in one line
config.py     ~/.1backend/cliConfig.yaml, shared with 1Backend's own `oo`
session.py    which server, whose token, and what to do when it has ended
shell.py      groups with aliases, the options every command takes, printing
documents.py  files of routes and redirects
fields.py     `--field=value` to JSON
trust_stores.py   where clients on this machine look for authorities they trust
rules.py, certs.py, explain.py, trust.py, instances.py, accounts.py, environments.py, calls.py, demo.py
                  the commands
main.py       the root command, and the exit codes
"""
