from __future__ import annotations

import io
import ipaddress
import pathlib
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onebackend_proxy.balancing import Balance
from onebackend_proxy.errors import SettingError
from onebackend_proxy.limits import DEFAULTS, Limits
from onebackend_proxy.options import (
    DEFAULT_LISTEN,
    LIMITS,
    SETTINGS,
    Options,
    Settings,
    refuse_to_start,
    settings_from,
)

from .properties import PROPERTY


@pytest.fixture
def clean(monkeypatch):
    for setting in SETTINGS:
        monkeypatch.delenv(setting.variable, raising=False)
    monkeypatch.delenv("OB_ADMIN_PASSWORD", raising=False)
    return monkeypatch


@pytest.fixture
def stderr(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "__stderr__", stream)
    return stream


def refused(options, environment=None):
    with pytest.raises(SettingError) as caught:
        settings_from(options, environment or {})
    return caught.value.message


def test_the_defaults():
    settings = settings_from({}, {})
    assert settings == Settings()
    assert settings.listen == (DEFAULT_LISTEN,) == ("tcp:11337:interface=127.0.0.1",)
    assert settings.folder == pathlib.Path.home() / ".1backend"
    assert (settings.access_log, settings.access_log_format) == ("-", "json")
    assert (settings.trusted_proxies, settings.open_registration) == ((), False)
    assert (settings.edge_cache_max_size, settings.edge_cache_item_max_size) == (100_000_000, 2_000_000)
    assert (settings.edge, settings.edge_test_mode, settings.sync_certs_to_files) == (False, False, False)
    assert (settings.http_port, settings.https_port, settings.http, settings.https) == (80, 443, "", "")
    assert settings.acme_directories == ("https://acme-v02.api.letsencrypt.org/directory",)
    assert (settings.contact_email, settings.acme_ca_file, settings.acme_resolver) == ("", None, None)
    assert (settings.acme_eab_kid, settings.acme_eab_hmac_key) == ("", "")
    assert (settings.acme_profile, settings.acme_dns) == ("", "")
    assert settings.limits == DEFAULTS == Limits()


VARIABLES = {
    "OB_PROXY_LISTEN": "tcp:1  unix:/tmp/x",
    "OB_FOLDER": "/data",
    "OB_ENCRYPTION_KEY": "key",
    "OB_PROXY_TRUSTED_PROXIES": "10.0.0.1/8, ::1",
    "OB_PROXY_ACCESS_LOG": "/log",
    "OB_PROXY_ACCESS_LOG_FORMAT": "combined",
    "OB_PROXY_BALANCE": "ip_hash",
    "OB_PROXY_OPEN_REGISTRATION": "TRUE",
    "OB_PROXY_WORKERS": "1",
    "OB_PROXY_HEAD_SIZE": "8KiB",
    "OB_EDGE_CACHE_MAX_SIZE": "64MiB",
    "OB_EDGE_CACHE_ITEM_MAX_SIZE": "0",
    "OB_ADMIN_PASSWORD": "word",
}


def test_variables():
    assert settings_from({}, VARIABLES) == Settings(
        listen=("tcp:1", "unix:/tmp/x"),
        folder=pathlib.Path("/data"),
        encryption_key="key",
        trusted_proxies=(ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("::1")),
        access_log="/log",
        access_log_format="combined",
        balance=Balance.IP_HASH,
        edge_cache_max_size=64 * 1024 * 1024,
        edge_cache_item_max_size=0,
        open_registration=True,
        admin_password="word",
        limits=Limits(head_size=8192),
    )


def test_an_option_wins_over_its_variable():
    options = {
        "listen": ["tcp:2"],
        "folder": "relative",
        "encryption-key": "other",
        "trusted-proxies": "127.0.0.1",
        "access-log": "-",
        "access-log-format": "json",
        "balance": "round_robin",
        "open-registration": 1,
        "workers": "1",
        "head-size": "9000",
        "head-timeout": "0.5",
    }
    settings = settings_from(options, {**VARIABLES, "OB_PROXY_OPEN_REGISTRATION": "false"})
    assert settings.listen == ("tcp:2",)
    assert settings.folder == pathlib.Path.cwd() / "relative"
    assert settings.encryption_key == "other"
    assert settings.trusted_proxies == (ipaddress.ip_network("127.0.0.1"),)
    assert (settings.access_log, settings.access_log_format) == ("-", "json")
    assert settings.balance is Balance.ROUND_ROBIN
    assert settings.open_registration
    assert settings.limits == Limits(head_size=9000, head_timeout=0.5)


def test_an_empty_variable_is_none():
    assert settings_from({"listen": []}, dict.fromkeys(VARIABLES, "")) == Settings()
    assert not settings_from(
        {"open-registration": 0}, {"OB_PROXY_OPEN_REGISTRATION": "False"}
    ).open_registration


@pytest.mark.parametrize(
    "option, variable, value, wanted",
    [
        ("folder", "OB_FOLDER", "~no-such-user/x", "there is no such home directory"),
        ("trusted-proxies", "OB_PROXY_TRUSTED_PROXIES", "10.0.0.0/33", "give CIDRs such as"),
        ("trusted-proxies", "OB_PROXY_TRUSTED_PROXIES", "10.0.0.1,localhost", "give CIDRs such as"),
        ("trusted-proxies", "OB_PROXY_TRUSTED_PROXIES", "\u0661.0.0.0", "give CIDRs such as"),
        ("access-log-format", "OB_PROXY_ACCESS_LOG_FORMAT", "JSON", "'JSON' is neither json nor combined"),
        ("balance", "OB_PROXY_BALANCE", "fair", "'fair' is none of random, round_robin"),
        ("edge-cache-max-size", "OB_EDGE_CACHE_MAX_SIZE", "much", "'much' is not a size such as"),
        ("head-size", "OB_PROXY_HEAD_SIZE", "big", "'big' is not a size such as 32KiB"),
        ("head-timeout", "OB_PROXY_HEAD_TIMEOUT", "0", "must be more than 0"),
        ("workers", "OB_PROXY_WORKERS", "2", "serves with 1 process"),
        ("workers", "OB_PROXY_WORKERS", "\u0661", "serves with 1 process"),
    ],
)
def test_a_bad_value_is_blamed_on_where_it_came_from(option, variable, value, wanted):
    message = refused({option: value})
    assert message.startswith(f"--{option}: ") and wanted in message
    message = refused({}, {variable: value})
    assert message.startswith(f"{variable}: ") and wanted in message


@pytest.mark.parametrize("text", ["", "x", "tcp:", "tcp:http", "nosuch:1", "systemd:domain=INET"])
def test_what_is_no_endpoint(text):
    assert refused({"listen": ["tcp:1", text]}).startswith(f"--listen: {text!r} is not an endpoint such as")


def test_endpoints_in_the_variable():
    assert refused({}, {"OB_PROXY_LISTEN": " "}) == "OB_PROXY_LISTEN: no endpoint in it"
    assert refused({}, {"OB_PROXY_LISTEN": "tcp:1 tcp:x"}).startswith("OB_PROXY_LISTEN: 'tcp:x' is not")


def test_an_empty_folder_is_not_the_current_one():
    assert refused({"folder": ""}) == "--folder: no folder is named"


@pytest.mark.parametrize("value", ["1", "yes", "on", " true"])
def test_a_flag_is_true_or_false(value):
    assert refused({}, {"OB_PROXY_OPEN_REGISTRATION": value}).endswith("is neither true nor false")


def test_the_edge_by_1backends_variables():
    names = {
        "OB_EDGE_PROXY": "True",
        "OB_EDGE_PROXY_TEST_MODE": "false",
        "OB_EDGE_PROXY_HTTP_PORT": "8080",
        "OB_EDGE_PROXY_HTTPS_PORT": "8443",
        "OB_SYNC_CERTS_TO_FILES": "true",
    }
    assert settings_from({}, names) == Settings(
        edge=True, http_port=8080, https_port=8443, sync_certs_to_files=True
    )


@pytest.mark.parametrize(
    "options, edge",
    [
        ({}, False),
        ({"edge": 1}, True),
        ({"edge-test-mode": 1}, True),
        ({"http": "tcp:8080"}, True),
        ({"https": "unix:/run/https.sock"}, True),
        ({"http-port": "8080", "https-port": "8443"}, False),
        ({"sync-certs-to-files": 1}, False),
    ],
)
def test_who_names_an_endpoint_of_the_edge_wants_it(options, edge):
    assert settings_from(options, {}).edge == edge


@pytest.mark.parametrize("option", [{"http": "tcp:80"}, {"https": "tcp:443"}, {"edge-test-mode": 1}])
def test_an_edge_that_is_off_has_no_endpoints(option):
    [name] = option
    with pytest.raises(SettingError) as caught:
        settings_from(option, {"OB_EDGE_PROXY": "false"})
    assert caught.value.message == f"OB_EDGE_PROXY: is false, and --{name} is for the edge"


def test_what_is_wrong_with_an_endpoint_is_told_in_words_for_people():
    for text in ("tcp", "tcp:1:2:3:4:5", "unix", "tcp:http", "unix:/x:mode=9", "systemd:domain=INET:index=x"):
        assert refused({"http": text}) == f"--http: {text!r} is not an endpoint such as {DEFAULT_LISTEN}"
    for text, said in (
        ("nosuch:1", f"is not an endpoint such as {DEFAULT_LISTEN}: Unknown endpoint type: 'nosuch'"),
        ("systemd:domain=INET:index=99", "is a socket that systemd has not passed on"),
        ("ssl:1:privateKey=/no/such", "needs /no/such: No such file or directory"),
    ):
        assert refused({"http": text}) == f"--http: {text!r} {said}"


PORTS_THAT_ARE_NONE = ["0000199999", "0", "65536", "99999999999", "-1", "http", "80 ", "\u0668\u0660", "8.0"]


@pytest.mark.parametrize("option", ["http-port", "https-port"])
@pytest.mark.parametrize("text", PORTS_THAT_ARE_NONE)
def test_a_port_is_a_port(option, text):
    assert refused({option: text}) == f"--{option}: {text!r} is not a port from 1 to 65535"


@pytest.mark.parametrize("option", ["http", "https"])
@pytest.mark.parametrize("text", ["8080", "tcp:http", "nosuch:1", "tcp:1 tcp:2"])
def test_an_endpoint_of_the_edge_is_one(option, text):
    assert refused({option: text}).startswith(f"--{option}: {text!r} is not an endpoint such as")


def test_secrets_do_not_show():
    names = {"OB_ENCRYPTION_KEY": "s3cret", "OB_ADMIN_PASSWORD": "s3cret"}
    settings = settings_from({"acme-eab-kid": "kid", "acme-eab-hmac-key": "s3cret"}, names)
    assert (settings.encryption_key, settings.admin_password) == ("s3cret", "s3cret")
    assert settings.acme_eab_hmac_key == "s3cret"
    assert "s3cret" not in repr(settings)


def test_the_token_of_the_metrics(clean):
    token = "x" * 16
    by_option = settings_from({"metrics-token": token}, {})
    by_variable = settings_from({}, {"OB_PROXY_METRICS_TOKEN": token})
    assert by_option.metrics_token == by_variable.metrics_token == token
    assert token not in repr(by_option)
    assert settings_from({}, {}).metrics_token == ""
    for text in ("x" * 15, "x" * 256, "with a space in it", "kürbiskernöl-kürbis", "control\x01characters"):
        said = refused({"metrics-token": text})
        assert said.startswith("--metrics-token: is not a token of 16 to 255") and text not in said


@PROPERTY
@given(
    st.sampled_from([setting for setting in SETTINGS if setting.option != "listen"]),
    st.text(st.characters(exclude_characters="\0"), max_size=12),
)
def test_any_text_is_a_setting_or_one_error(setting, text):
    for options, environment, name in (
        ({setting.option: text}, {}, f"--{setting.option}: "),
        ({}, {setting.variable: text}, f"{setting.variable}: "),
    ):
        try:
            settings_from(options, environment)
        except SettingError as error:
            assert error.message.startswith(name)


def test_the_command_line(clean):
    options = Options()
    options.parseOptions(["--listen", "tcp:1", "--listen=tcp:2", "--open-registration", "--folder", "/data"])
    assert options.settings == Settings(
        listen=("tcp:1", "tcp:2"), folder=pathlib.Path("/data"), open_registration=True
    )
    clean.setenv("OB_FOLDER", "/other")
    options = Options()
    options.parseOptions([])
    assert options.settings == Settings(folder=pathlib.Path("/other"))


def test_every_setting_is_an_option_and_names_its_variable_or_itself():
    text = Options().getUsage(10_000)
    for setting in SETTINGS:
        assert f"--{setting.option}" in text
        assert setting.variable in text or setting.repeatable or setting in LIMITS


def test_the_limits_stand_in_a_group_after_the_other_options():
    text = Options().getUsage(80)
    others, _, limits = text.partition("\nLimits (sizes such as 32KiB")
    assert max(map(len, text.splitlines())) <= 80
    for setting in SETTINGS:
        assert (f"--{setting.option}=" in limits) == (setting in LIMITS)
        assert (f"--{setting.option}" in others.replace("=", "")) == (setting not in LIMITS)
    # Showing them has not made them unknown.
    options = Options()
    options.getUsage()
    options.parseOptions(["--pipelined", "3"])
    assert options.settings.limits.pipelined == 3


@pytest.mark.parametrize(
    "arguments, wanted",
    [
        (["--nosuch"], "option --nosuch not recognized"),
        (["--folder"], "option --folder requires argument"),
        (["extra"], "unexpected argument 'extra'"),
        (["--listen", "x"], "--listen: 'x' is not an endpoint"),
        (["--workers", "4"], "--workers: '4' cannot be had"),
        (["--head-fields", "-1"], "--head-fields: '-1' is negative"),
        (["--upstream-wait=soon"], "--upstream-wait: 'soon' is not a time such as 5s"),
        (["--edge=yes"], "option --edge must not have an argument"),
        (["--https-port", "70000"], "--https-port: '70000' is not a port"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line_and_exit_1(clean, stderr, arguments, wanted):
    with pytest.raises(SystemExit) as caught:
        Options().parseOptions(arguments)
    assert caught.value.code == 1
    line = stderr.getvalue()
    assert line.startswith(f"onebackend-proxy: {wanted}")
    assert line.count("\n") == 1 and line.endswith("\n")


def test_a_refusal_is_one_line_wherever_it_can_be_written(monkeypatch, capsys):
    monkeypatch.setattr(sys, "__stderr__", None)
    with pytest.raises(SystemExit):
        refuse_to_start("two\n  lines\r\n")
    assert capsys.readouterr().err == "onebackend-proxy: two lines\n"
