from __future__ import annotations

import errno
import multiprocessing
import os
import pathlib
import resource
import shutil
import signal
import stat
import threading

import attrs
import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificate
from hypothesis import example, given
from hypothesis import strategies as st

from onebackend_proxy.tls.certificates import read_bundle
from onebackend_proxy.tls.files import folder_name, remove, sync, synced

from ..properties import PROPERTY
from . import making
from .making import made, record

NAMES = ["cert.pem", "chain.pem", "fullchain.pem", "privkey.pem"]
X = record("x.com", "*.x.com")
RENEWED = record("x.com", "*.x.com")


@pytest.fixture(autouse=True)
def open_umask():
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path):
    return stat.S_IMODE(path.lstat().st_mode)


def live(folder, domain="x.com"):
    return folder / "certs" / "live" / domain


def archived(folder, domain="x.com"):
    return sorted(each.name for each in (folder / "certs" / "archive" / domain).iterdir())


def read(folder, domain="x.com"):
    """What another program finds: the four files, from one and the same folder."""
    return {name: (live(folder, domain) / name).read_text() for name in NAMES}


def contents(certificate):
    end = "-----END CERTIFICATE-----\n"
    leaf, _, above = certificate.chain.partition(end)
    return dict(zip(NAMES, [leaf + end, above, certificate.chain, certificate.private_key], strict=True))


def everything(folder):
    """Each path below the folder, with what tells whether it was written anew."""
    found = {}
    for path in sorted((folder / "certs").rglob("*")):
        about = path.lstat()
        found[str(path.relative_to(folder))] = (about.st_ino, about.st_mtime_ns, about.st_mode)
    return found


def test_the_four_files(tmp_path):
    assert sync(tmp_path, X)
    assert sorted(os.listdir(live(tmp_path))) == NAMES
    assert read(tmp_path) == contents(X)
    leaf = load_pem_x509_certificate((live(tmp_path) / "cert.pem").read_bytes())
    key = load_pem_private_key((live(tmp_path) / "privkey.pem").read_bytes(), None)
    assert leaf.public_key() == key.public_key()
    above = load_pem_x509_certificate((live(tmp_path) / "chain.pem").read_bytes())
    leaf.verify_directly_issued_by(above)


def test_keys_and_folders_are_their_owners_only(tmp_path):
    sync(tmp_path, X)
    for path in (tmp_path / "certs").rglob("*"):
        if path.is_symlink():
            continue
        if path.is_dir():
            assert mode(path) == 0o700, path
        elif path.name in ("privkey.pem", ".lock"):
            assert mode(path) == 0o600, path
        else:
            assert mode(path) == 0o644, path
    assert mode(tmp_path / "certs") == 0o700


def test_what_has_not_changed_is_not_written(tmp_path):
    sync(tmp_path, X)
    before = everything(tmp_path)
    assert not sync(tmp_path, X)
    assert not sync(tmp_path, attrs.evolve(X, updated_at=making.now() + making.DAY))
    assert everything(tmp_path) == before


def test_a_renewal_keeps_the_one_before(tmp_path):
    several = [record("x.com") for _ in range(4)]
    for certificate in several:
        before = os.readlink(live(tmp_path)) if live(tmp_path).is_symlink() else None
        assert sync(tmp_path, certificate)
        assert read(tmp_path) == contents(certificate)
        entries = archived(tmp_path)
        assert len(entries) == (2 if before else 1)
        assert before is None or pathlib.Path(before).name in entries
    assert sync(tmp_path, several[2])
    assert read(tmp_path) == contents(several[2])
    assert len(archived(tmp_path)) == 2


def test_another_chain_for_the_same_leaf(tmp_path):
    lone = attrs.evolve(X, chain=contents(X)["cert.pem"])
    sync(tmp_path, X)
    assert sync(tmp_path, lone)
    assert read(tmp_path) == contents(lone)
    assert read(tmp_path)["chain.pem"] == ""


@pytest.mark.parametrize("name", NAMES)
def test_damage_is_repaired(tmp_path, name):
    sync(tmp_path, X)
    for _ in range(3):
        (live(tmp_path) / name).write_text("damaged")
        assert sync(tmp_path, X)
        assert read(tmp_path) == contents(X)
        (live(tmp_path) / name).unlink()
        assert sync(tmp_path, X)
        assert read(tmp_path) == contents(X)
        assert len(archived(tmp_path)) == 2


def test_a_lost_archive_is_repaired(tmp_path):
    sync(tmp_path, X)
    shutil.rmtree(tmp_path / "certs" / "archive")
    assert sync(tmp_path, X)
    assert read(tmp_path) == contents(X)


def test_several_domains_and_their_folders(tmp_path):
    ids = {"x.com": "x.com", "*.x.com": "wildcard_.x.com", "127.0.0.1": "127.0.0.1", "::1": "::1"}
    text = made(*ids).bundle
    for id, folder in ids.items():
        certificate = read_bundle(text, making.now(), id=id)
        assert sync(tmp_path, certificate)
        assert read(tmp_path, folder) == contents(certificate)
    assert sorted(os.listdir(tmp_path / "certs" / "live")) == sorted(ids.values())


def test_removed(tmp_path):
    sync(tmp_path, X)
    sync(tmp_path, RENEWED)
    sync(tmp_path, record("y.com"))
    sync(tmp_path, record("*.x.com"))
    remove(tmp_path, "x.com")
    assert sorted(os.listdir(tmp_path / "certs" / "live")) == ["wildcard_.x.com", "y.com"]
    assert sorted(os.listdir(tmp_path / "certs" / "archive")) == ["wildcard_.x.com", "y.com"]
    remove(tmp_path, "x.com")
    remove(tmp_path, "*.x.com")
    assert os.listdir(tmp_path / "certs" / "live") == ["y.com"]
    assert sync(tmp_path, X)
    assert read(tmp_path) == contents(X)


def test_whose_files_there_are(tmp_path):
    assert synced(tmp_path) == set()
    ids = {"x.com", "*.x.com", "127.0.0.1", "::1"}
    text = made(*ids).bundle
    for id in ids:
        sync(tmp_path, read_bundle(text, making.now(), id=id))
    for name in ("theirs.com", "README", "wildcard_.", "a b"):
        live(tmp_path, name).mkdir()
    live(tmp_path, "other.com").symlink_to("../archive/x.com/1")
    live(tmp_path, ".y.com.new").symlink_to("../archive/y.com/1")
    assert synced(tmp_path) == ids
    remove(tmp_path, "*.x.com")
    assert synced(tmp_path) == ids - {"*.x.com"}


def test_nothing_to_remove(tmp_path):
    remove(tmp_path, "x.com")
    assert os.listdir(tmp_path) == []


UNFIT = [
    "",
    ".",
    "..",
    "../x",
    "/etc",
    "x/y",
    "x.com/",
    "x\0",
    "x\n",
    "X.com",
    "x.com.",
    "*",
    "wildcard_.x.com",
]
UNFIT += ["[::1]", "a b", "..\\x", "-x", "*.*.x.com", "x" * 64]


@pytest.mark.parametrize("domain", UNFIT)
def test_a_name_cannot_leave_the_folder(tmp_path, domain):
    for action in (
        lambda: sync(tmp_path / "folder", attrs.evolve(X, id=domain)),
        lambda: remove(tmp_path / "folder", domain),
    ):
        with pytest.raises(ValueError):
            action()
    assert os.listdir(tmp_path) == []


@PROPERTY
@given(st.text(max_size=40) | st.text("./*a-:0\0", max_size=12))
@example("a" * 300)
def test_any_name_is_one_path_segment_or_refused(text):
    try:
        name = folder_name(text)
    except ValueError:
        return
    assert name not in ("", ".", "..")
    assert not set(name) & {"/", "\0"}
    assert name == (f"wildcard_{text[1:]}" if text.startswith("*") else text)


def test_the_key_must_be_there(tmp_path):
    with pytest.raises(ValueError, match=r"the certificate of x\.com comes without its private key"):
        sync(tmp_path, attrs.evolve(X, private_key=""))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_what_another_program_put_there_stays(tmp_path, kind):
    path = live(tmp_path)
    path.parent.mkdir(parents=True)
    if kind == "folder":
        path.mkdir()
        (path / "privkey.pem").write_text("theirs")
    elif kind == "file":
        path.write_text("theirs")
    else:
        path.symlink_to("/somewhere")
    for action in (lambda: sync(tmp_path, X), lambda: remove(tmp_path, "x.com")):
        with pytest.raises(FileExistsError, match="is not from this program, move it away") as caught:
            action()
        assert caught.value.filename == str(path)
    assert kind != "folder" or (path / "privkey.pem").read_text() == "theirs"
    assert kind != "file" or path.read_text() == "theirs"
    assert kind != "link" or os.readlink(path) == "/somewhere"


class Full:
    """A disk that is full after so many calls that write to it."""

    def __init__(self, monkeypatch, calls):
        self.left = calls
        for name in ("fsync", "mkdir", "symlink", "rename", "open"):
            monkeypatch.setattr(os, name, self.limited(getattr(os, name)))

    def limited(self, call):
        def limited(*args, **kwargs):
            self.left -= 1
            if self.left < 0:
                name = args[0] if isinstance(args[0], (str, pathlib.Path)) else None
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name and str(name))
            return call(*args, **kwargs)

        return limited


def test_a_disk_that_is_full_at_any_moment(tmp_path, monkeypatch):
    """What was there before is there whole, the error tells where, and the next try succeeds."""
    failed = 0
    for calls in range(60):
        folder = tmp_path / str(calls)
        folder.mkdir()
        sync(folder, X)
        with monkeypatch.context() as patch:
            Full(patch, calls)
            try:
                sync(folder, RENEWED)
            except OSError as error:
                failed += 1
                assert error.errno == errno.ENOSPC
                assert error.filename.startswith(str(folder / "certs"))
                assert read(folder) in (contents(X), contents(RENEWED))
            else:
                break
        sync(folder, RENEWED)
        assert read(folder) == contents(RENEWED)
        assert sorted(os.listdir(live(folder).parent)) == ["x.com"]
        assert len(archived(folder)) == 2
    # Each file and folder is made, written and made to last.
    assert 10 < failed < 59


def failed_in_a_child(folder, prepare):
    """The number and the path of the error of a renewal, in a process of its own that is first prepared."""

    def child(report):
        prepare()
        try:
            sync(folder, RENEWED)
        except OSError as error:
            report.put((error.errno, error.filename))

    context = multiprocessing.get_context("fork")
    report = context.Queue()
    process = context.Process(target=child, args=(report,))
    process.start()
    found = report.get(timeout=20)
    process.join(20)
    return found


def test_a_disk_that_is_really_full(tmp_path):
    """A file may be no longer than this: the kernel says so when it is written."""
    sync(tmp_path, X)

    def prepare():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))

    number, filename = failed_in_a_child(tmp_path, prepare)
    assert number == errno.EFBIG
    assert filename.startswith(str(tmp_path / "certs" / "archive" / "x.com"))
    assert filename.endswith("cert.pem")
    assert read(tmp_path) == contents(X)
    assert len(archived(tmp_path)) == 1


def test_no_permission(tmp_path):
    sync(tmp_path, X)
    archive = tmp_path / "certs" / "archive" / "x.com"
    archive.chmod(0o500)

    def prepare():
        # Root may write everywhere, until it is somebody else.
        if os.geteuid() == 0:
            os.seteuid(65534)

    number, filename = failed_in_a_child(tmp_path, prepare)
    archive.chmod(0o700)
    assert number == errno.EACCES
    assert filename.startswith(str(tmp_path / "certs"))
    assert read(tmp_path) == contents(X)


def test_a_file_in_the_place_of_a_folder(tmp_path):
    (tmp_path / "certs").write_text("x")
    with pytest.raises(FileExistsError) as caught:
        sync(tmp_path, X)
    assert caught.value.filename == str(tmp_path / "certs")


def test_a_reader_never_sees_half(tmp_path):
    """Through the folder that is live, opened once: four files that belong together, at all times."""
    sync(tmp_path, X)
    known = [contents(X), contents(RENEWED)]
    ended = threading.Event()
    seen = []

    def look():
        while not ended.is_set():
            folder = os.path.realpath(live(tmp_path))
            try:
                found = {name: pathlib.Path(folder, name).read_text() for name in NAMES}
            except FileNotFoundError:
                # It was renewed twice meanwhile: readers begin again.
                continue
            seen.append(known.index(found))

    reader = threading.Thread(target=look)
    reader.start()
    for _ in range(30):
        sync(tmp_path, RENEWED)
        sync(tmp_path, X)
    ended.set()
    reader.join()
    assert set(seen) == {0, 1}


def test_several_at_once_in_one_folder(tmp_path):
    several = [X, RENEWED, record("x.com")]
    failures = []

    def work(certificate):
        try:
            for _ in range(20):
                sync(tmp_path, certificate)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(each,)) for each in several]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert read(tmp_path) in [contents(each) for each in several]
    assert len(archived(tmp_path)) == 2
    assert sorted(os.listdir(live(tmp_path).parent)) == ["x.com"]
