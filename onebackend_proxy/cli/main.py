"""The root command `oo`, and what becomes of errors: one line on stderr and an exit code."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Sequence
from typing import Any

import click

from onebackend_proxy.cli.accounts import login, logout, register, token, users, whoami
from onebackend_proxy.cli.cache import cache
from onebackend_proxy.cli.calls import CALLS
from onebackend_proxy.cli.certs import certs
from onebackend_proxy.cli.client import Refusal
from onebackend_proxy.cli.demo import demo
from onebackend_proxy.cli.environments import environments
from onebackend_proxy.cli.explain import explain
from onebackend_proxy.cli.hashing import hash_password
from onebackend_proxy.cli.instances import instances
from onebackend_proxy.cli.logs import logs
from onebackend_proxy.cli.rules import redirects, routes
from onebackend_proxy.cli.shell import INTERRUPTED, AliasedGroup, warn
from onebackend_proxy.cli.trust import trust

REFUSED = 1
MISUSED = 2

# Since click 8.2 a group without a subcommand is an error that shows the help; before, an exit.
_SHOWS_HELP: type[click.UsageError] | tuple[()] = getattr(click.exceptions, "NoArgsIsHelpError", ())


class _Root(AliasedGroup):
    """The root, which lets no traceback out."""

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **more: Any
    ) -> None:
        """Run the command line and exit: 0, 1 for a refusal, 2 for misuse, 130 for Ctrl-C."""
        more.pop("standalone_mode", None)
        sys.exit(self._run(args, prog_name or "oo", more))

    def _run(self, args: Sequence[str] | None, prog_name: str, more: dict[str, Any]) -> int:
        try:
            done = super().main(args, prog_name, standalone_mode=False, **more)
            return done if isinstance(done, int) else 0
        except _SHOWS_HELP as error:
            error.show()
            return MISUSED
        except click.UsageError as error:
            where = error.ctx.command_path if error.ctx else prog_name
            warn(f"{error.format_message()} (see: {where} --help)")
            return error.exit_code
        except click.ClickException as error:
            warn(error.format_message())
            return error.exit_code
        except (click.Abort, KeyboardInterrupt):
            return INTERRUPTED
        except Refusal as error:
            warn(str(error))
            return REFUSED
        except OSError as error:
            warn(f"{error.filename or 'input or output'}: {error.strerror or type(error).__name__}")
            return REFUSED
        except Exception as error:
            # Its text may hold anything, a password too; its type and place do not.
            warn(f"a mistake of this program: {type(error).__name__}{_place(error)}")
            return REFUSED


def _place(error: Exception) -> str:
    """Say where in the code an error came from, in a few words."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f" in {trace.tb_frame.f_code.co_qualname}, line {trace.tb_lineno}" if trace is not None else ""


def _version() -> str:
    try:
        return importlib.metadata.version("onebackend_proxy")
    except importlib.metadata.PackageNotFoundError:
        return "(run from its source)"


@click.group("oo", cls=_Root, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(_version(), prog_name="oo", message="%(prog)s %(version)s")
def cli() -> None:
    """Speak to a 1Backend proxy: log in, register services, save routes, call anything.

    On the proxy's own machine no login is needed. Try it all with: oo demo
    """


_GROUPS = (users, routes, redirects, cache, certs, instances, environments)
_ACCOUNTS = (login, logout, whoami, token, register)
for _command in (*_ACCOUNTS, *_GROUPS, hash_password, explain, logs, trust, *CALLS, demo):
    cli.add_command(_command)


def main() -> None:
    """Run `oo`: the console script."""
    cli.main(prog_name="oo")
