from __future__ import annotations

import os
import re
import stat

import pytest

from onebackend_proxy.errors import SettingError
from onebackend_proxy.folder import default_folder, kept_secret, make_folder, read_secret


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(autouse=True)
def open_umask():
    before = os.umask(0)
    yield
    os.umask(before)


def test_the_folder_is_made_for_its_owner_only(tmp_path):
    folder = tmp_path / "a" / "b"
    make_folder(folder)
    assert mode(folder) == 0o700
    (folder / "kept").write_text("x")
    make_folder(folder)
    assert (folder / "kept").read_text() == "x"


def test_a_file_in_its_place(tmp_path):
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(SettingError, match=r"^--folder: cannot make .*file.*: "):
            make_folder(folder)


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    # Told by a fake: root may write anywhere.
    asked = []
    monkeypatch.setattr(os, "access", lambda path, how: asked.append((path, how)))
    with pytest.raises(SettingError, match=r"cannot be written$"):
        make_folder(tmp_path)
    assert asked == [(tmp_path, os.R_OK | os.W_OK | os.X_OK)]


def test_a_secret_is_made_once(tmp_path):
    path = tmp_path / "secret"
    secret = kept_secret(path)
    assert re.fullmatch(r"[A-Za-z0-9_-]{32}", secret)
    assert mode(path) == 0o600
    assert path.read_text() == secret + "\n"
    assert kept_secret(path) == secret
    assert kept_secret(tmp_path / "another") != secret


def test_a_secret_that_somebody_wrote(tmp_path):
    path = tmp_path / "secret"
    path.write_text("  m\u00fc sli \r\n\n", "utf-8")
    assert kept_secret(path) == "m\u00fc sli"


def test_one_rule_reads_a_secret(tmp_path):
    path = tmp_path / "secret"
    path.write_bytes(b"\t two words \r\n\n")
    assert read_secret(path) == kept_secret(path) == "two words"
    path.write_bytes(b" \n")
    assert read_secret(path) == ""
    with pytest.raises(FileNotFoundError):
        read_secret(tmp_path / "none")


def test_the_folder_where_none_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".1backend"


@pytest.mark.parametrize("content", [b"", b"\n", b" \t\r\n"])
def test_an_empty_secret_is_none(tmp_path, content):
    path = tmp_path / "secret"
    path.write_bytes(content)
    with pytest.raises(SettingError, match="is empty: delete it"):
        kept_secret(path)
    assert path.read_bytes() == content


def test_a_secret_that_is_not_text_is_not_repeated(tmp_path):
    path = tmp_path / "secret"
    path.write_bytes(b"s3cret\xff")
    with pytest.raises(SettingError, match="cannot use") as caught:
        kept_secret(path)
    assert "s3cret" not in str(caught.value)


def test_a_folder_in_its_place(tmp_path):
    with pytest.raises(SettingError, match="cannot use"):
        kept_secret(tmp_path)
    with pytest.raises(SettingError, match="cannot use"):
        kept_secret(tmp_path / "no" / "such" / "folder")


def test_a_link_that_leads_nowhere_is_not_followed(tmp_path):
    link = tmp_path / "secret"
    link.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SettingError, match="cannot use"):
        kept_secret(link)
    assert not (tmp_path / "elsewhere").exists()
