"""The data folder: made with mode 0700, and the secrets that are generated into it with 0600."""

from __future__ import annotations

import os
import pathlib
import secrets
import tempfile

from .errors import SettingError

DEFAULT_FOLDER = "~/.1backend"
ENCRYPTION_KEY = "encryption.key"
ADMIN_PASSWORD = "admin-password"
DATABASE = "proxy.sqlite"
ACCESS_LOG = "access-log"
"""A link to where the access log is written, if that is a file."""


def default_folder() -> pathlib.Path:
    """The data folder where none is named."""
    return pathlib.Path(DEFAULT_FOLDER).expanduser()


def make_folder(folder: pathlib.Path) -> None:
    """Make the folder if there is none; raises `SettingError` where it cannot be used."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise SettingError(f"--folder: cannot make {folder}: {error.strerror}") from None
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise SettingError(f"--folder: {folder} cannot be written")


def read_secret(path: pathlib.Path) -> str:
    """The secret in the file at `path`, without the white space around it, which no editor shows.

    Raises `OSError` or `UnicodeDecodeError`; empty where the file is.
    """
    return path.read_text("utf-8").strip()


def kept_secret(path: pathlib.Path) -> str:
    """The secret kept in the file at `path`, made now (0600) if there is none."""
    try:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            text = read_secret(path)
            if not text:
                raise SettingError(f"{path} is empty: delete it to have a new one made") from None
            return text
        text = secrets.token_urlsafe(24)
        with os.fdopen(descriptor, "w") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        return text
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"cannot use {path}: {error}") from None


def write_atomically(path: pathlib.Path, text: str) -> None:
    """Put `text` into the file at `path`, for all to read (0644): never seen half written."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text)
            os.fchmod(file.fileno(), 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
