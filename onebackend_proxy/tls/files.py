"""Certificates as files, where and as certbot keeps them, for programs that cannot ask the store.

::

    certs/live/x.com -> ../archive/x.com/<fingerprint>     cert.pem  chain.pem  fullchain.pem  privkey.pem
    certs/archive/x.com/<fingerprint>/                     the one that is live, and the one before it

The link is what makes a renewal atomic: who opens all four by way of one `live` folder gets four that belong
together, or opens them again. All of this blocks: call it in a thread.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import pathlib
import shutil
from collections.abc import Iterator

from ..records import Certificate
from .certificates import certificate_name

_WILDCARD = "wildcard_."
_LEAF_ENDS = "-----END CERTIFICATE-----\n"
_PRIVATE = 0o600
_PUBLIC = 0o644
_FOLDER = 0o700
_AGAIN = "-again"
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


def folder_name(domain: str) -> str:
    """The folder of a certificate's id: as it is, but ``wildcard_.x.com`` for ``*.x.com``.

    Raises `ValueError` for what is not a name of a certificate: nothing else may choose where files go.
    """
    name = certificate_name(domain)
    if name != domain or name.startswith(_WILDCARD):
        raise ValueError(f"{domain[:253]!r} cannot name a folder of certificates")
    return _WILDCARD + name[2:] if name.startswith("*.") else name


def sync(folder: pathlib.Path, certificate: Certificate) -> bool:
    """Write a certificate with its key below `folder`; whether anything had to be written.

    All four files change at once. Raises `OSError` that names the path (disk full, no permission, a live
    folder that is not ours), and what was there before stays.
    """
    domain = folder_name(certificate.id)
    if not certificate.private_key:
        raise ValueError(f"the certificate of {certificate.id} comes without its private key")
    contents = _contents(certificate)
    fingerprint = hashlib.sha256(certificate.chain.encode()).hexdigest()[:32]
    with _locked(folder / "certs") as certs:
        link, archive = certs / "live" / domain, certs / "archive" / domain
        current = _current(link, archive)
        if current and _holds(archive / current, contents):
            return False
        # A damaged one is not written over: somebody may be reading it.
        entry = fingerprint if current != fingerprint else fingerprint + _AGAIN
        _make_folders(link.parent, archive.parent, archive)
        _write_entry(archive / entry, contents)
        _point(link, f"../archive/{domain}/{entry}")
        _forget(archive, {entry, current})
    return True


def remove(folder: pathlib.Path, domain: str) -> None:
    """Remove the files of the certificate with this id, if there are any; raises as `sync` does."""
    name = folder_name(domain)
    if not (folder / "certs").is_dir():
        return
    with _locked(folder / "certs") as certs:
        link, archive = certs / "live" / name, certs / "archive" / name
        if _current(link, archive):
            link.unlink()
        if archive.is_dir():
            shutil.rmtree(archive)


def synced(folder: pathlib.Path) -> set[str]:
    """The ids of the certificates whose files are below `folder`, not other programs'; raises `OSError`."""
    certs = folder / "certs"
    found = set()
    for link in (certs / "live").iterdir() if (certs / "live").is_dir() else ():
        wildcard = link.name.startswith(_WILDCARD)
        domain = "*." + link.name.removeprefix(_WILDCARD) if wildcard else link.name
        with contextlib.suppress(ValueError, FileExistsError):
            if folder_name(domain) == link.name and _current(link, certs / "archive" / link.name):
                found.add(domain)
    return found


def _contents(certificate: Certificate) -> dict[str, tuple[bytes, int]]:
    """By file: what is in it, and its mode."""
    leaf, end, above = certificate.chain.partition(_LEAF_ENDS)
    return {
        "cert.pem": ((leaf + end).encode(), _PUBLIC),
        "chain.pem": (above.encode(), _PUBLIC),
        "fullchain.pem": (certificate.chain.encode(), _PUBLIC),
        "privkey.pem": (certificate.private_key.encode(), _PRIVATE),
    }


@contextlib.contextmanager
def _locked(certs: pathlib.Path) -> Iterator[pathlib.Path]:
    """Alone in the folder: several proxies may work on one."""
    _make_folders(certs)
    path = certs / ".lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _PRIVATE)
    try:
        with _named(path):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield certs
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _named(path: pathlib.Path) -> Iterator[None]:
    """An error of a descriptor or a link does not say which path it was."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def _make_folders(*paths: pathlib.Path) -> None:
    # One by one: `parents=True` would leave those between open to others.
    for path in paths:
        path.mkdir(mode=_FOLDER, exist_ok=True)


def _current(link: pathlib.Path, archive: pathlib.Path) -> str:
    """The entry of the archive that is live, "" if none is; `FileExistsError` for what we did not make."""
    try:
        target = pathlib.PurePosixPath(os.readlink(link))
    except FileNotFoundError:
        return ""
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        target = pathlib.PurePosixPath()
    if target.parent != pathlib.PurePosixPath("../archive") / archive.name:
        raise FileExistsError(errno.EEXIST, "is not from this program, move it away", str(link))
    return target.name


def _holds(entry: pathlib.Path, contents: dict[str, tuple[bytes, int]]) -> bool:
    try:
        return all((entry / name).read_bytes() == data for name, (data, _) in contents.items())
    except OSError:
        return False


def _write_entry(entry: pathlib.Path, contents: dict[str, tuple[bytes, int]]) -> None:
    """Nothing points here yet: what is left of another try goes, and so does this one if it fails."""
    shutil.rmtree(entry, ignore_errors=True)
    entry.mkdir(mode=_FOLDER)
    try:
        for name, (data, mode) in contents.items():
            path = entry / name
            with _named(path), open(os.open(path, _NEW, mode), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        _sync_folder(entry)
    except OSError:
        shutil.rmtree(entry, ignore_errors=True)
        raise


def _point(link: pathlib.Path, target: str) -> None:
    new = link.with_name(f".{link.name}.new")
    new.unlink(missing_ok=True)
    with _named(new):
        new.symlink_to(target)
    new.rename(link)
    _sync_folder(link.parent)


def _sync_folder(path: pathlib.Path) -> None:
    with _named(path):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _forget(archive: pathlib.Path, kept: set[str]) -> None:
    for entry in archive.iterdir():
        if entry.name not in kept:
            shutil.rmtree(entry, ignore_errors=True)
