"""Where clients on this machine look for authorities they trust: the system's store, and Chromium's own."""

from __future__ import annotations

import datetime
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence

import attrs

from onebackend_proxy.cli.client import Refusal
from onebackend_proxy.folder import write_atomically

SECONDS = 120
"""How long a program that changes a store may take."""
LOCAL_NAME = "localhost"
# Ordinary users of Debian have no sbin in their PATH.
_MORE_PATHS = ("/usr/local/sbin", "/usr/sbin", "/sbin")
_KEYCHAIN = "/Library/Keychains/System.keychain"
_ONE_BLOCK = re.compile(r"\s*-----BEGIN CERTIFICATE-----\s[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----\s*")


@attrs.frozen
class Root:
    """The certificate of a local authority, checked."""

    pem: str
    name: str
    sha256: str
    not_after: str
    ended: bool = False

    @property
    def label(self) -> str:
        """What it is called in the stores: another proxy's has another name."""
        return f"onebackend-proxy-{self.sha256.replace(':', '')[:8].lower()}"


def read_root(pem: str) -> Root:
    """Check the certificate of a local authority; Refusal for one that could vouch for other names.

    Whoever is trusted by a system's store can pretend to be any name that its constraints allow. Nothing may
    stand beside it: other programs find certificates there that were not looked at (``TRUSTED CERTIFICATE``).
    """
    # Half as long to import as all of oo: no other command needs it.
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization

    try:
        if not _ONE_BLOCK.fullmatch(pem):
            raise ValueError
        certificate = x509.load_pem_x509_certificate(pem.encode("ascii"))
        names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        authority = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        constraints = certificate.extensions.get_extension_for_class(x509.NameConstraints)
    except (ValueError, x509.ExtensionNotFound):
        raise Refusal("what came is not the certificate of a local authority") from None
    permitted = constraints.value.permitted_subtrees or []
    # RFC 5280, 4.2.1.10: a kind of name of which none is permitted is not constrained at all.
    kinds = {type(name) for name in permitted} == {x509.DNSName, x509.IPAddress}
    hosts = {name.value for name in permitted if isinstance(name, x509.DNSName)} == {LOCAL_NAME}
    if not (authority and constraints.critical and kinds and hosts):
        raise Refusal("the certificate could vouch for other names than localhost: it is not to be trusted")
    name = str(names[0].value) if names else "without a name"
    if not name.isprintable():
        raise Refusal("the certificate's name has a control character: it is not to be trusted")
    return Root(
        pem=certificate.public_bytes(serialization.Encoding.PEM).decode("ascii"),
        name=name,
        sha256=certificate.fingerprint(hashes.SHA256()).hex(":").upper(),
        not_after=f"{certificate.not_valid_after_utc:%Y-%m-%d}",
        ended=certificate.not_valid_after_utc <= datetime.datetime.now(datetime.UTC),
    )


def _which(program: str) -> str | None:
    told = os.environ.get("PATH", os.defpath).split(os.pathsep)
    # An empty one would be the folder we happen to be in.
    return shutil.which(program, path=os.pathsep.join([*filter(os.path.isabs, told), *_MORE_PATHS]))


def _run(command: Sequence[str]) -> None:
    """Run a program without a word on our output; Refusal with its last line if it fails."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Refusal(f"{command[0]} could not be run: {type(error).__name__}") from None
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        why = said[-1] if said else f"exit code {done.returncode}"
        raise Refusal(f"{pathlib.Path(command[0]).name} failed: {why}")


@attrs.frozen
class Machine:
    """The machine whose stores are changed; a test makes one of its own."""

    top: pathlib.Path = pathlib.Path("/")
    home: pathlib.Path = attrs.field(factory=pathlib.Path.home)
    platform: str = sys.platform
    user: int = attrs.field(factory=os.geteuid)
    which: Callable[[str], str | None] = _which
    run: Callable[[Sequence[str]], None] = _run


@attrs.frozen
class Folder:
    """A folder of authorities, below the top, and what is run when it has changed, or has less in it."""

    path: str
    changed: tuple[str, ...]
    removed: tuple[str, ...]


FOLDERS = (
    Folder("etc/pki/ca-trust/source/anchors", ("update-ca-trust",), ("update-ca-trust",)),
    Folder("etc/ca-certificates/trust-source/anchors", ("update-ca-trust",), ("update-ca-trust",)),
    Folder("etc/pki/trust/anchors", ("update-ca-certificates",), ("update-ca-certificates",)),
    # Without --fresh Debian leaves links to what is gone.
    Folder(
        "usr/local/share/ca-certificates", ("update-ca-certificates",), ("update-ca-certificates", "--fresh")
    ),
)
"""Fedora and RHEL, Arch, SUSE, Debian and Alpine."""


def change_system(machine: Machine, root: Root, install: bool, tell: Callable[[str], None]) -> None:
    """Put `root` into the system's store, or take it out; Refusal where that cannot be done."""
    if machine.user != 0:
        word = "--install" if install else "--uninstall"
        raise Refusal(
            "the system's store is changed by root only: "
            f"oo trust --out root.pem && sudo oo trust {word} --from root.pem"
        )
    if machine.platform == "darwin":
        _change_keychain(machine, root, install, tell)
        return
    for folder in FOLDERS:
        [name, *options] = folder.changed if install else folder.removed
        program = machine.which(name)
        if program is not None and (machine.top / folder.path).is_dir():
            _change_folder(machine, root, folder, install, [program, *options], tell)
            return
    raise Refusal("there is no store of the system that oo knows of: see oo trust for other ways")


def _change_folder(
    machine: Machine,
    root: Root,
    folder: Folder,
    install: bool,
    command: list[str],
    tell: Callable[[str], None],
) -> None:
    path = machine.top / folder.path / f"{root.label}.crt"
    left = ""
    if install:
        _write(path, root.pem)
        tell(f"wrote {path}")
        left = f" ({path} stays: try again, or oo trust --uninstall)"
    elif os.path.lexists(path):
        path.unlink()
        tell(f"removed {path}")
    else:
        # The command is run all the same: it may have failed the last time.
        tell(f"the system's store: {path} is not there")
    try:
        machine.run(command)
    except Refusal as error:
        raise Refusal(f"{error}{left}") from None
    tell(f"ran {' '.join(command)}")


def _write(path: pathlib.Path, pem: str) -> None:
    try:
        write_atomically(path, pem)
    except OSError as error:
        raise Refusal(f"{path}: {error.strerror}") from None


def _change_keychain(machine: Machine, root: Root, install: bool, tell: Callable[[str], None]) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
        file.write(root.pem)
        file.flush()
        if install:
            machine.run(["security", "add-trusted-cert", "-d", "-r", "trustRoot", "-k", _KEYCHAIN, file.name])
        else:
            machine.run(["security", "remove-trusted-cert", "-d", file.name])
    tell(f"{'added to' if install else 'trusted no more by'} {_KEYCHAIN}: {root.name}")


def change_nss(machine: Machine, root: Root, install: bool, tell: Callable[[str], None]) -> None:
    """Put `root` into the store that Chromium on Linux has in the user's home, or take it out."""
    if machine.platform == "darwin":
        return
    certutil = machine.which("certutil")
    folder = machine.home / ".pki" / "nssdb"
    if certutil is None:
        tell("Chromium: skipped, certutil is not installed (Debian: libnss3-tools, Fedora: nss-tools)")
        return
    if machine.home.stat().st_uid != machine.user:
        # What root writes there its owner could not change any more.
        tell(f"Chromium: skipped, {machine.home} is somebody else's: run oo trust as them, too")
        return
    base = [certutil, "-d", f"sql:{folder}"]
    known = folder.is_dir() and _succeeds(machine, [*base, "-L", "-n", root.label])
    if install and not known:
        _add_to_nss(machine, root, folder, base)
    elif known and not install:
        machine.run([*base, "-D", "-n", root.label])
    before, after = ("in", "added to") if install else ("not in", "removed from")
    tell(f"Chromium: {before if known is install else after} {folder}")


def _add_to_nss(machine: Machine, root: Root, folder: pathlib.Path, base: Sequence[str]) -> None:
    if not folder.is_dir():
        folder.mkdir(mode=0o700, parents=True)
        machine.run([*base, "-N", "--empty-password"])
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
        file.write(root.pem)
        file.flush()
        machine.run([*base, "-A", "-t", "C,,", "-n", root.label, "-i", file.name])


def _succeeds(machine: Machine, command: Sequence[str]) -> bool:
    try:
        machine.run(command)
    except Refusal:
        return False
    return True
