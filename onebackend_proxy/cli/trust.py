"""`oo trust`: have this machine trust the proxy's certificates for localhost and IP addresses."""

from __future__ import annotations

import pathlib
import sys

import click

from onebackend_proxy.cli.client import Refusal
from onebackend_proxy.cli.session import in_the_clear
from onebackend_proxy.cli.shell import AliasedCommand, Settings, pass_settings, warn
from onebackend_proxy.cli.trust_stores import Machine, Root, change_nss, change_system, read_root

PATH = "/proxy-svc/local-authority"
WAYS = """\
Have a client trust it, and https://localhost works there without a warning:

this machine       oo trust --install      (--uninstall undoes it)
a file             oo trust --out root.pem
curl               curl --cacert root.pem https://localhost
Node               NODE_EXTRA_CA_CERTS=root.pem
Python (requests)  REQUESTS_CA_BUNDLE=root.pem
Debian, Alpine     cp root.pem /usr/local/share/ca-certificates/onebackend-proxy.crt && update-ca-certificates
Fedora             cp root.pem /etc/pki/ca-trust/source/anchors/ && update-ca-trust
macOS              security add-trusted-cert -d -r trustRoot -k /Library/Keychains/System.keychain root.pem
Chromium on Linux  certutil -d sql:$HOME/.pki/nssdb -A -t C,, -n onebackend-proxy -i root.pem
Firefox            Settings, Privacy & Security, View Certificates, Authorities, Import"""


@click.command("trust", cls=AliasedCommand)
@click.option("--print", "print_", is_flag=True, help="Print the root certificate in PEM, and nothing else.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=pathlib.Path),
    help="Write the root certificate to a file.",
)
@click.option("--install", is_flag=True, help="Trust it on this machine: the system's store, and Chromium's.")
@click.option("--uninstall", is_flag=True, help="Undo --install.")
@click.option(
    "--from",
    "source",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=pathlib.Path),
    help="Take the root certificate from a file, instead of asking the server.",
)
@pass_settings
def trust(
    settings: Settings,
    print_: bool,
    out: pathlib.Path | None,
    install: bool,
    uninstall: bool,
    source: pathlib.Path | None,
) -> None:
    """Tell how clients come to trust the proxy's certificates for localhost and IP addresses, or do it.

    They are issued by an authority of the proxy's own, which can vouch for no other name.
    """
    if sum((print_, out is not None, install, uninstall)) > 1:
        raise click.UsageError("give one of --print, --out, --install and --uninstall")
    root = _asked_root(settings, install) if source is None else read_root(_text(source))
    if print_:
        click.echo(root.pem, nl=False)
    elif out is not None:
        out.write_text(root.pem, "ascii")
        settings.show({"file": str(out)}, f"wrote {out}")
    elif install or uninstall:
        _change(root, install)
    else:
        shown = {"cert": root.pem, "name": root.name, "sha256": root.sha256, "notAfter": root.not_after}
        settings.show(shown, f"{_about(root)}\n\n{WAYS}")


def _asked_root(settings: Settings, install: bool) -> Root:
    session = settings.session()
    said = session.call("GET", PATH)
    if install and in_the_clear(session.url):
        # Anybody on the way could have put a root of their own in its place.
        raise Refusal(
            f"{session.url} is asked in the clear: take the certificate along yourself, and give it to --from"
        )
    pem = said.get("cert") if isinstance(said, dict) else None
    if not isinstance(pem, str):
        raise Refusal(f"{session.url} did not send a certificate: is it a 1Backend proxy?")
    return read_root(pem)


def _text(source: pathlib.Path) -> str:
    try:
        return sys.stdin.read() if str(source) == "-" else source.read_text("ascii")
    except UnicodeDecodeError:
        raise Refusal(f"{source}: is not PEM: it has a byte that is not ASCII") from None


def _about(root: Root) -> str:
    return (
        "The proxy's own authority vouches for localhost, names below it, and IP addresses.\n\n"
        f"name               {root.name}\n"
        f"SHA-256            {root.sha256}\n"
        f"until              {root.not_after}"
    )


def _change(root: Root, install: bool) -> None:
    """Change all stores that there are: one that cannot be changed is told last, when the others are done."""
    if install and root.ended:
        raise Refusal(f"the certificate ended on {root.not_after}: it is not to be trusted")
    machine = Machine()
    refusals: list[Refusal] = []
    for change in (change_nss, change_system):
        try:
            change(machine, root, install, click.echo)
        except Refusal as error:
            refusals.append(error)
        except OSError as error:
            refusals.append(Refusal(f"{error.filename}: {error.strerror}"))
    for refusal in refusals[:-1]:
        warn(str(refusal))
    if refusals:
        raise refusals[-1]
