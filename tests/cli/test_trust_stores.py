"""The stores of a machine that is a folder, whose programs note that they were run."""

from __future__ import annotations

import os
import pathlib
import shutil
import stat
import subprocess
import sys
from typing import Any

import attrs
import pytest
from cryptography import x509

from onebackend_proxy.cli import trust_stores
from onebackend_proxy.cli.client import Refusal
from onebackend_proxy.cli.trust_stores import FOLDERS, Machine, change_nss, change_system, read_root
from onebackend_proxy.tls.authority import LocalAuthority
from tests.tls.making import authority, made, new_key, now, signed

PEM = LocalAuthority.make(now()).root_pem
ROOT = read_root(PEM)
FILE = f"{ROOT.label}.crt"
SYSTEM = [
    ("etc/pki/ca-trust/source/anchors", "update-ca-trust"),
    ("etc/ca-certificates/trust-source/anchors", "update-ca-trust"),
    ("etc/pki/trust/anchors", "update-ca-certificates"),
    ("usr/local/share/ca-certificates", "update-ca-certificates"),
]


class Made:
    """A machine of a test's own, what it ran, and what was told."""

    def __init__(self, folder: pathlib.Path, *programs: str, **more: Any) -> None:
        self.ran: list[list[str]] = []
        self.told: list[str] = []
        self.failing: set[str] = set()
        home = folder / "home"
        home.mkdir(exist_ok=True)
        more = {"platform": "linux", "user": 0, "home": home, **more}
        self.machine = Machine(
            top=folder, which=lambda name: f"/bin/{name}" if name in programs else None, run=self.run, **more
        )

    def run(self, command: Any) -> None:
        self.ran.append([*command])
        if self.failing & {*command}:
            raise Refusal("it failed")
        for argument in command:
            if argument.endswith(".pem"):
                assert pathlib.Path(argument).read_text() == PEM

    def system(self, install: bool = True) -> None:
        change_system(self.machine, ROOT, install, self.told.append)

    def nss(self, install: bool = True) -> None:
        change_nss(self.machine, ROOT, install, self.told.append)


@pytest.mark.parametrize("path, program", SYSTEM)
def test_a_folder_of_the_system(tmp_path: pathlib.Path, path: str, program: str) -> None:
    assert [folder.path for folder in FOLDERS] == [folder for folder, _program in SYSTEM]
    folder = tmp_path / path
    folder.mkdir(parents=True)
    made_ = Made(tmp_path, program)
    made_.system()
    made_.system()
    assert (folder / FILE).read_text() == PEM
    assert stat.S_IMODE((folder / FILE).stat().st_mode) == 0o644
    assert made_.ran == [[f"/bin/{program}"]] * 2
    assert made_.told == [f"wrote {folder / FILE}", f"ran /bin/{program}"] * 2
    made_.told.clear()
    made_.system(install=False)
    made_.system(install=False)
    assert list(folder.iterdir()) == []
    fresh = " --fresh" if path.startswith("usr/local") else ""
    assert made_.told == [
        f"removed {folder / FILE}",
        f"ran /bin/{program}{fresh}",
        f"the system's store: {folder / FILE} is not there",
        # It may have failed the first time.
        f"ran /bin/{program}{fresh}",
    ]
    assert len(made_.ran) == 4


def test_a_program_that_fails_is_run_again(tmp_path: pathlib.Path) -> None:
    path, program = SYSTEM[3]
    file = tmp_path / path / FILE
    file.parent.mkdir(parents=True)
    made_ = Made(tmp_path, program)
    made_.failing = {f"/bin/{program}"}
    with pytest.raises(Refusal) as caught:
        made_.system()
    assert str(caught.value) == f"it failed ({file} stays: try again, or oo trust --uninstall)"
    assert file.read_text() == PEM
    for said in (f"removed {file}", f"the system's store: {file} is not there"):
        made_.told.clear()
        with pytest.raises(Refusal, match=r"^it failed$"):
            made_.system(install=False)
        assert made_.told == [said]
    made_.failing.clear()
    made_.system(install=False)
    assert made_.ran[-1] == [f"/bin/{program}", "--fresh"]


def test_no_link_is_written_through(tmp_path: pathlib.Path) -> None:
    path, program = SYSTEM[3]
    file = tmp_path / path / FILE
    file.parent.mkdir(parents=True)
    precious = tmp_path / "precious"
    precious.write_text("untouched")
    made_ = Made(tmp_path, program)
    file.symlink_to(precious)
    made_.system()
    assert (precious.read_text(), file.is_symlink(), file.read_text()) == ("untouched", False, PEM)
    assert [*file.parent.iterdir()] == [file]
    file.unlink()
    file.symlink_to(tmp_path / "gone")
    made_.system(install=False)
    assert [*file.parent.iterdir()] == []
    file.mkdir()
    with pytest.raises(Refusal, match=f"^{file}: Is a directory$"):
        made_.system()
    assert [*file.parent.iterdir()] == [file]


def test_only_root_may(tmp_path: pathlib.Path) -> None:
    for install, option in ((True, "--install"), (False, "--uninstall")):
        with pytest.raises(Refusal) as caught:
            Made(tmp_path, user=1000).system(install)
        assert str(caught.value).endswith(
            f"oo trust --out root.pem && sudo oo trust {option} --from root.pem"
        )


def test_a_system_without_a_store(tmp_path: pathlib.Path) -> None:
    (tmp_path / SYSTEM[3][0]).mkdir(parents=True)
    for programs in ((), ("update-ca-trust",)):
        with pytest.raises(Refusal, match="there is no store of the system that oo knows of"):
            Made(tmp_path, *programs).system()


def test_macos(tmp_path: pathlib.Path) -> None:
    made_ = Made(tmp_path, "certutil", platform="darwin")
    made_.system()
    made_.system(install=False)
    made_.nss()
    assert [command[:-1] for command in made_.ran] == [
        ["security", "add-trusted-cert", "-d", "-r", "trustRoot", "-k", "/Library/Keychains/System.keychain"],
        ["security", "remove-trusted-cert", "-d"],
    ]
    assert made_.told == [
        f"added to /Library/Keychains/System.keychain: {ROOT.name}",
        f"trusted no more by /Library/Keychains/System.keychain: {ROOT.name}",
    ]


def test_chromium(tmp_path: pathlib.Path) -> None:
    made_ = Made(tmp_path, "certutil", user=os.geteuid())
    folder = tmp_path / "home" / ".pki" / "nssdb"
    base = ["/bin/certutil", "-d", f"sql:{folder}"]
    made_.nss(install=False)
    made_.nss()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert made_.ran[0] == [*base, "-N", "--empty-password"]
    assert made_.ran[1][:-1] == [*base, "-A", "-t", "C,,", "-n", ROOT.label, "-i"]
    made_.nss()
    made_.nss(install=False)
    assert made_.ran[2:] == [[*base, word, "-n", ROOT.label] for word in ("-L", "-L", "-D")]
    made_.failing = {"-L"}
    made_.nss(install=False)
    assert made_.told == [
        f"Chromium: not in {folder}",
        f"Chromium: added to {folder}",
        f"Chromium: in {folder}",
        f"Chromium: removed from {folder}",
        f"Chromium: not in {folder}",
    ]


def test_chromium_is_skipped(tmp_path: pathlib.Path) -> None:
    made_ = Made(tmp_path)
    made_.nss()
    assert made_.told.pop().startswith("Chromium: skipped, certutil is not installed (Debian: libnss3-tools")
    made_ = Made(tmp_path, "certutil", user=os.geteuid() + 1)
    made_.nss()
    assert made_.told == [
        f"Chromium: skipped, {tmp_path / 'home'} is somebody else's: run oo trust as them, too"
    ]
    assert made_.ran == [] and not (tmp_path / "home" / ".pki").exists()


def _authority(constraints: x509.NameConstraints | None, critical: bool = True, ca: bool = True) -> str:
    extensions: list[Any] = [(x509.BasicConstraints(ca=ca, path_length=None), True)]
    if constraints is not None:
        extensions.append((constraints, critical))
    return str(signed(extensions, new_key(), common_name="x").pem)


def _permitted(*names: x509.GeneralName) -> x509.NameConstraints:
    return x509.NameConstraints(names or None, None if names else [x509.DNSName("x.com")])


ROOT_NAMES = x509.load_pem_x509_certificate(PEM.encode()).extensions.get_extension_for_class(
    x509.NameConstraints
)
LOCAL = list(ROOT_NAMES.value.permitted_subtrees or [])


def test_a_root_that_is_only_for_this_machine_is_taken() -> None:
    assert read_root(_authority(_permitted(*LOCAL))).name == "x"


@pytest.mark.parametrize(
    "pem",
    [
        _authority(None),
        _authority(_permitted()),
        _authority(_permitted(*LOCAL, x509.DNSName("com"))),
        _authority(_permitted(*LOCAL, x509.DNSName(""))),
        _authority(_permitted(*LOCAL, x509.RFC822Name("x.com"))),
        # What is not mentioned is not constrained.
        _authority(_permitted(*LOCAL[1:])),
        _authority(_permitted(LOCAL[0])),
        _authority(_permitted(*LOCAL), critical=False),
        _authority(_permitted(*LOCAL), ca=False),
        authority().pem,
        made("localhost").pem,
        PEM + PEM,
        # What we do not read there, others do.
        PEM + authority().pem.replace("CERTIFICATE", "TRUSTED CERTIFICATE"),
        PEM + authority().pem.replace("CERTIFICATE", "X509 CERTIFICATE"),
        PEM + made("localhost").key_pem,
        made("localhost").key_pem + PEM,
        f"a remark\n{PEM}",
        f"{PEM}a remark\n",
        "",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        PEM.replace("A", "ä"),
    ],
)
def test_what_could_vouch_for_others_is_not(pem: str) -> None:
    with pytest.raises(Refusal) as caught:
        read_root(pem)
    assert str(caught.value) in (
        "what came is not the certificate of a local authority",
        "the certificate could vouch for other names than localhost: it is not to be trusted",
    )


def test_only_the_certificate_is_kept() -> None:
    assert read_root("\n  " + PEM.replace("\n", "\r\n") + "\n\n").pem == PEM
    assert not ROOT.ended


def test_a_name_for_the_terminal_only() -> None:
    extensions: list[Any] = [
        (x509.BasicConstraints(ca=True, path_length=None), True),
        (_permitted(*LOCAL), True),
    ]
    pem = signed(extensions, new_key(), common_name="a\x1b[31mb").pem
    with pytest.raises(Refusal, match="the certificate's name has a control character"):
        read_root(pem)


def test_programs_are_run_and_their_last_word_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    trust_stores._run([sys.executable, "-c", "print('quiet')"])
    for code, said in (
        ("import sys; sys.exit('one\\nwhy')", f"{pathlib.Path(sys.executable).name} failed: why"),
        ("print('so'); raise SystemExit(3)", f"{pathlib.Path(sys.executable).name} failed: so"),
        ("raise SystemExit(3)", f"{pathlib.Path(sys.executable).name} failed: exit code 3"),
    ):
        with pytest.raises(Refusal) as caught:
            trust_stores._run([sys.executable, "-c", code])
        assert str(caught.value) == said
    with pytest.raises(Refusal, match="/nowhere/at/all could not be run: FileNotFoundError"):
        trust_stores._run(["/nowhere/at/all"])
    monkeypatch.setenv("PATH", "/nowhere")
    assert trust_stores._which("no-such-program") is None


@pytest.mark.parametrize("path", ["", ":/nowhere", ".:/nowhere"])
def test_no_program_is_taken_from_where_we_happen_to_be(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    program = tmp_path / "no-such-program"
    program.touch(mode=0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", path)
    assert trust_stores._which("no-such-program") is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert trust_stores._which("no-such-program") == str(program)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_the_label_is_the_fingerprints_beginning(tmp_path: pathlib.Path) -> None:
    command = ["openssl", "x509", "-noout", "-fingerprint", "-sha256"]
    said = subprocess.run(command, input=PEM, capture_output=True, text=True, check=True).stdout
    assert said.strip().partition("=")[2] == ROOT.sha256
    assert ROOT.label == f"onebackend-proxy-{ROOT.sha256[:11].replace(':', '').lower()}"
    assert attrs.evolve(ROOT, sha256="AB:CD:EF:01:23").label == "onebackend-proxy-abcdef01"
