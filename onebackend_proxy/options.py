"""Settings: from twistd's command line and from `OB_*` variables, checked before anything starts."""

from __future__ import annotations

import ipaddress
import os
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import attrs
from twisted.python import usage

from . import acme_settings
from .balancing import Balance
from .errors import SettingError
from .folder import DEFAULT_FOLDER, default_folder
from .headers import Network
from .limits import COUNT, DEFAULTS, SECONDS, SIZE, Limits
from .units import parse_count, parse_seconds, parse_size, shown_seconds, shown_size

DEFAULT_LISTEN = "tcp:11337:interface=127.0.0.1"
FORMATS = ("json", "combined")
_BALANCES = ", ".join(choice.value for choice in Balance)


@attrs.frozen
class Settings:
    """All settings of the program; the defaults are those of the command line."""

    listen: tuple[str, ...] = (DEFAULT_LISTEN,)
    edge: bool = False
    edge_test_mode: bool = False
    http_port: int = 80
    https_port: int = 443
    http: str = ""
    https: str = ""
    folder: pathlib.Path = attrs.field(factory=default_folder)
    encryption_key: str = attrs.field(default="", repr=False)
    trusted_proxies: tuple[Network, ...] = ()
    access_log: str = "-"
    access_log_format: str = "json"
    metrics_token: str = attrs.field(default="", repr=False)
    trace: bool = False
    balance: Balance = Balance.RANDOM
    edge_cache_max_size: int = 100_000_000
    edge_cache_item_max_size: int = 2_000_000
    open_registration: bool = False
    admin_password: str = attrs.field(default="", repr=False)
    sync_certs_to_files: bool = False
    contact_email: str = ""
    acme_directories: tuple[str, ...] = (acme_settings.LETS_ENCRYPT,)
    acme_ca_file: pathlib.Path | None = None
    acme_eab_kid: str = ""
    acme_eab_hmac_key: str = attrs.field(default="", repr=False)
    acme_profile: str = ""
    acme_dns: str = ""
    acme_resolver: tuple[str, int] | None = None
    limits: Limits = DEFAULTS


@attrs.frozen
class _Setting:
    """One option: its variable, what it does, and how its text becomes a value."""

    option: str
    variable: str
    help: str
    parse: Callable[[str], Any]
    flag: bool = False
    repeatable: bool = False
    field: str = attrs.field()

    @field.default
    def _field_of_the_same_name(self) -> str:
        return self.option.replace("-", "_")


def _endpoint(text: str) -> str:
    from twisted.internet import reactor
    from twisted.internet.endpoints import serverFromString

    try:
        serverFromString(reactor, text)
    except Exception as error:
        raise ValueError(f"{text!r} {_why_no_endpoint(text, error)}") from None
    return text


def _why_no_endpoint(text: str, error: Exception) -> str:
    # The parsers of endpoints raise whatever their arguments make them raise: not all of it is for people.
    if isinstance(error, OSError):
        return f"needs {error.filename}: {error.strerror}"
    if isinstance(error, LookupError) and text.startswith("systemd:"):
        return "is a socket that systemd has not passed on"
    for_people = type(error) is ValueError and not str(error).startswith("invalid literal")
    return f"is not an endpoint such as {DEFAULT_LISTEN}" + (f": {error}" if for_people else "")


def _endpoints(text: str) -> tuple[str, ...]:
    return tuple(_endpoint(word) for word in text.split())


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 5 or not 0 < int(text) < 65536:
        raise ValueError(f"{text!r} is not a port from 1 to 65535")
    return int(text)


def _folder(text: str) -> pathlib.Path:
    if not text:
        raise ValueError("no folder is named")
    try:
        return pathlib.Path(text).expanduser().absolute()
    except RuntimeError:
        raise ValueError(f"{text!r}: there is no such home directory") from None


def _networks(text: str) -> tuple[Network, ...]:
    words = [word.strip() for word in text.split(",")]
    try:
        return tuple(ipaddress.ip_network(word, strict=False) for word in words if word)
    except ValueError as error:
        raise ValueError(f"{error}: give CIDRs such as 10.0.0.0/8, separated by commas") from None


def _balance(text: str) -> Balance:
    try:
        return Balance(text)
    except ValueError:
        raise ValueError(f"{text!r} is none of {_BALANCES}") from None


def _format(text: str) -> str:
    if text not in FORMATS:
        raise ValueError(f"{text!r} is neither json nor combined")
    return text


def _true_or_false(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(f"{text!r} is neither true nor false")
    return text.lower() == "true"


def _secret_token(text: str) -> str:
    # No error repeats it.
    if not 16 <= len(text) <= 255 or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("is not a token of 16 to 255 printable ASCII characters, without spaces")
    return text


def _one_worker(text: str) -> int:
    if text != "1":
        raise ValueError(f"{text!r} cannot be had: this version serves with 1 process")
    return 1


# How each kind of limit is read, and how its default is shown.
_KINDS: Mapping[str, tuple[Callable[[str], float], Callable[[Any], str]]] = {
    SIZE: (parse_size, shown_size),
    SECONDS: (parse_seconds, shown_seconds),
    COUNT: (parse_count, str),
}


def _limit_setting(limit: attrs.Attribute[Any]) -> _Setting:
    parse_kind, shown = _KINDS[limit.metadata["kind"]]

    def parse(text: str) -> float:
        value = parse_kind(text)
        if not value and not limit.metadata["zero"]:
            raise ValueError(f"{text!r} is too little: it must be more than 0")
        return value

    return _Setting(
        limit.name.replace("_", "-"),
        f"OB_PROXY_{limit.name.upper()}",
        f"{limit.metadata['help']} [default: {shown(limit.default)}]",
        parse,
    )


LIMITS = tuple(_limit_setting(limit) for limit in attrs.fields(Limits))
SETTINGS = (
    _Setting(
        "listen",
        "OB_PROXY_LISTEN",
        f"Endpoint of the service side, repeatable. [default: {DEFAULT_LISTEN}]",
        _endpoints,
        repeatable=True,
    ),
    _Setting(
        "edge",
        "OB_EDGE_PROXY",
        "Serve Routes by host, on the HTTP and HTTPS ports.",
        _true_or_false,
        flag=True,
    ),
    _Setting(
        "edge-test-mode",
        "OB_EDGE_PROXY_TEST_MODE",
        "Serve Routes on the HTTP port in clear: no redirect, no certificates.",
        _true_or_false,
        flag=True,
    ),
    _Setting("http-port", "OB_EDGE_PROXY_HTTP_PORT", "HTTP port of the edge. [default: 80]", _port),
    _Setting("https-port", "OB_EDGE_PROXY_HTTPS_PORT", "HTTPS port of the edge. [default: 443]", _port),
    _Setting(
        "http",
        "OB_PROXY_HTTP",
        "Endpoint in the place of --http-port, such as systemd:domain=INET6:index=0.",
        _endpoint,
    ),
    _Setting("https", "OB_PROXY_HTTPS", "Endpoint in the place of --https-port.", _endpoint),
    _Setting("folder", "OB_FOLDER", f"Data folder. [default: {DEFAULT_FOLDER}]", _folder),
    _Setting(
        "encryption-key",
        "OB_ENCRYPTION_KEY",
        "Encrypts private keys at rest. [default: made in FOLDER/encryption.key]",
        str,
    ),
    _Setting(
        "sync-certs-to-files",
        "OB_SYNC_CERTS_TO_FILES",
        "Also write certificates to FOLDER/certs/live/DOMAIN.",
        _true_or_false,
        flag=True,
    ),
    _Setting(
        "contact-email",
        "OB_CONTACT_EMAIL",
        "Where authorities write to about certificates.",
        acme_settings.email,
    ),
    _Setting(
        "acme-directory",
        "OB_PROXY_ACME_DIRECTORY",
        "Where certificates are ordered: URLs by commas, later ones where earlier ones fail, or off."
        " [default: Let's Encrypt]",
        acme_settings.directories,
        field="acme_directories",
    ),
    _Setting(
        "acme-ca-file",
        "OB_PROXY_ACME_CA_FILE",
        "PEM roots to trust in directories, beside the system's.",
        acme_settings.ca_file,
    ),
    _Setting(
        "acme-eab-kid",
        "OB_PROXY_ACME_EAB_KID",
        "Key id of an external account binding.",
        acme_settings.word,
    ),
    _Setting(
        "acme-eab-hmac-key",
        "OB_PROXY_ACME_EAB_HMAC_KEY",
        "Its key, in base64url.",
        acme_settings.hmac_key,
    ),
    _Setting(
        "acme-profile",
        "OB_PROXY_ACME_PROFILE",
        "Profile of certificates, such as shortlived, where the directory has it.",
        acme_settings.word,
    ),
    _Setting(
        "acme-dns",
        "OB_PROXY_ACME_DNS",
        "How proofs get into the DNS, such as rfc2136:192.0.2.53:key=/etc/acme.key; for wildcards.",
        str,
    ),
    _Setting(
        "acme-resolver",
        "OB_PROXY_ACME_RESOLVER",
        "Name server to ask about proofs, ADDRESS[:PORT]. [default: the system's]",
        acme_settings.name_server,
    ),
    _Setting(
        "trusted-proxies",
        "OB_PROXY_TRUSTED_PROXIES",
        "CIDRs, by commas, of proxies whose X-Forwarded-* we believe. [default: none]",
        _networks,
    ),
    _Setting(
        "access-log",
        "OB_PROXY_ACCESS_LOG",
        "File, - for standard output, or off. [default: -]",
        str,
    ),
    _Setting("access-log-format", "OB_PROXY_ACCESS_LOG_FORMAT", "json or combined. [default: json]", _format),
    _Setting(
        "metrics-token",
        "OB_PROXY_METRICS_TOKEN",
        "Bearer token that may read /proxy-svc/metrics, beside admins'.",
        _secret_token,
    ),
    _Setting(
        "trace",
        "OB_PROXY_TRACE",
        "Begin a trace (W3C traceparent) with each request that brings none.",
        _true_or_false,
        flag=True,
    ),
    _Setting(
        "balance",
        "OB_PROXY_BALANCE",
        f"Which instance of a service is asked: {_BALANCES}. [default: random]",
        _balance,
    ),
    _Setting(
        "edge-cache-max-size",
        "OB_EDGE_CACHE_MAX_SIZE",
        "Memory for answers of Routes with a cache; 0 is none. [default: 100MB]",
        parse_size,
    ),
    _Setting(
        "edge-cache-item-max-size",
        "OB_EDGE_CACHE_ITEM_MAX_SIZE",
        "The largest answer that is kept there. [default: 2MB]",
        parse_size,
    ),
    _Setting(
        "open-registration",
        "OB_PROXY_OPEN_REGISTRATION",
        "Anyone may register a service account.",
        _true_or_false,
        flag=True,
    ),
    _Setting("workers", "OB_PROXY_WORKERS", "Serving processes. [default: 1]", _one_worker),
    *LIMITS,
)


def _given(setting: _Setting, options: Mapping[str, Any], environment: Mapping[str, str]) -> tuple[str, Any]:
    """Where the setting's value comes from, and its text, or None."""
    given = options.get(setting.option)
    if given in (None, [], 0):
        # An empty variable is as none.
        return setting.variable, environment.get(setting.variable) or None
    return f"--{setting.option}", given


def settings_from(options: Mapping[str, Any], environment: Mapping[str, str]) -> Settings:
    """The settings that options (by name) and variables give; an option wins over its variable.

    Raises `SettingError` with one line that names the option, or the variable the value came from.
    """
    values: dict[str, Any] = {}
    names: dict[str, str] = {}
    for setting in SETTINGS:
        name, given = _given(setting, options, environment)
        if given is None:
            continue
        names[setting.field] = name
        try:
            if isinstance(given, list):
                values[setting.field] = tuple(_endpoint(text) for text in given)
            else:
                values[setting.field] = True if given == 1 else setting.parse(given)
        except ValueError as error:
            raise SettingError(f"{name}: {error}") from None
    values.pop("workers", None)
    if values.get("listen") == ():
        raise SettingError("OB_PROXY_LISTEN: no endpoint in it")
    limits = Limits(**{limit.field: values.pop(limit.field) for limit in LIMITS if limit.field in values})
    values["admin_password"] = environment.get("OB_ADMIN_PASSWORD", "")
    values["edge"] = _edge_is_wanted(values)
    _check_binding(values, names)
    return Settings(**values, limits=limits)


def _check_binding(values: Mapping[str, Any], names: Mapping[str, str]) -> None:
    for one, other in ("acme_eab_kid", "acme_eab_hmac_key"), ("acme_eab_hmac_key", "acme_eab_kid"):
        if one in values and other not in values:
            raise SettingError(
                f"{names[one]}: is nothing without --{other.replace('_', '-')}, which is not given"
            )


def _edge_is_wanted(values: Mapping[str, Any]) -> bool:
    """Who names a port of the edge, or tests it, wants it."""
    wanting = [name for name in ("edge_test_mode", "http", "https") if values.get(name)]
    if wanting and values.get("edge") is False:
        raise SettingError(f"OB_EDGE_PROXY: is false, and --{wanting[0].replace('_', '-')} is for the edge")
    return bool(wanting) or values.get("edge", False)


def refuse_to_start(message: str) -> NoReturn:
    """One line on the real standard error (twistd may have redirected it), and exit code 1."""
    line = " ".join(message.split())
    stream = sys.__stderr__ or sys.stderr
    stream.write(f"onebackend-proxy: {line}\n")
    stream.flush()
    raise SystemExit(1)


LIMITS_INTRO = "Limits (sizes such as 32KiB or 10MB, times such as 250ms, 5s or 1m30s):"


class Options(usage.Options):
    """The options of ``twistd onebackend-proxy``."""

    synopsis = "[options]"
    longdesc = (
        "1Backend's Proxy Svc: one front door for services. Each option has a variable, OB_PROXY_ and its"
        " name in capitals where 1Backend has none already; the option wins."
    )
    optParameters = [
        [setting.option, None, None, f"{setting.help} ({setting.variable})"]
        for setting in SETTINGS
        if not setting.flag and not setting.repeatable and setting not in LIMITS
    ]
    optParameters += [[limit.option, None, None, limit.help] for limit in LIMITS]
    optFlags = [
        [setting.option, None, f"{setting.help} ({setting.variable}=true)"]
        for setting in SETTINGS
        if setting.flag
    ]
    settings: Settings

    def __init__(self) -> None:
        super().__init__()
        self["listen"] = []

    def opt_listen(self, text: str) -> None:
        """Endpoint of the service side, repeatable [default: tcp:11337:interface=127.0.0.1]"""
        self["listen"].append(text)

    def getUsage(self, width: int | None = None) -> str:
        """The options, and the limits in a group of their own after them."""
        everything = self.longOpt
        limits = {limit.option: limit.help for limit in LIMITS}
        self.longOpt = [option for option in everything if option.rstrip("=") not in limits]
        try:
            text = super().getUsage(width)
        finally:
            self.longOpt = everything
        group = [{"long": option, "optType": "parameter", "doc": help} for option, help in limits.items()]
        chunks = usage.docMakeChunks(group, width or int(os.environ.get("COLUMNS", "80")))
        return f"{text}\n{LIMITS_INTRO}\n{''.join(chunks)}"

    def parseOptions(self, options: Any = None) -> None:
        """Parse, and end the program with one line where something is wrong."""
        try:
            super().parseOptions(options)
        except usage.UsageError as error:
            refuse_to_start(str(error))

    def parseArgs(self, *args: str) -> None:
        """There are no arguments."""
        if args:
            raise usage.UsageError(f"unexpected argument {args[0]!r}")

    def postOptions(self) -> None:
        """Make `settings` of what was given."""
        try:
            self.settings = settings_from(self, os.environ)
        except SettingError as error:
            refuse_to_start(error.message)
