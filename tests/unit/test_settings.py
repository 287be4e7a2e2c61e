"""The command line: the original's calls are accepted, every mistake is named at once."""

from argparse import ArgumentParser

import pytest

from ovn_ipsec.errors import SettingsError
from ovn_ipsec.model.conns import GuardMode, GuardPort, Protocol
from ovn_ipsec.settings import (
    GuardSettings,
    IkeDaemon,
    OnUnknown,
    Settings,
    parse_agent_arguments,
    parse_guard_arguments,
)

DATABASE = "unix:/run/openvswitch/db.sock"


def parse(*argv: str) -> Settings:
    return parse_agent_arguments(argv, prog="ovs-monitor-ipsec")[0]


def test_database_alone_gives_the_safe_defaults() -> None:
    settings = parse(DATABASE)
    assert settings == Settings(database=DATABASE)
    assert settings.guard_mode is GuardMode.ENFORCE
    assert settings.restart_ike_daemon


def test_the_call_of_ovs_ctl_is_accepted_with_flags_of_another_parser() -> None:
    def add_daemon_flags(parser: ArgumentParser) -> None:
        parser.add_argument("--pidfile", nargs="?", const="")
        parser.add_argument("--log-file", nargs="?", const="default")
        parser.add_argument("--detach", action="store_true")

    settings, namespace = parse_agent_arguments(
        [
            "--pidfile=/run/openvswitch/ovs-monitor-ipsec.pid",
            "--ike-daemon=strongswan",
            "--no-restart-ike-daemon",
            "--log-file",
            "--detach",
            DATABASE,
        ],
        prog="ovs-monitor-ipsec",
        add_more=[add_daemon_flags],
    )
    assert settings.ike_daemon is IkeDaemon.STRONGSWAN
    assert not settings.restart_ike_daemon
    assert settings.database == DATABASE
    assert namespace.pidfile == "/run/openvswitch/ovs-monitor-ipsec.pid"
    assert namespace.log_file == "default"
    assert namespace.detach


def test_following_can_be_asked_for_by_a_flag_or_as_the_mode() -> None:
    for flag in ("--guard-follow", "--guard-mode=follow"):
        settings = parse(flag, DATABASE)
        assert settings.guard_follow and settings.guard_mode is GuardMode.ENFORCE
    assert not parse("--guard-mode=audit", DATABASE).guard_follow


def test_every_value_is_read() -> None:
    assert parse(
        "--root-prefix=/r",
        "--ike-daemon",
        "libreswan",
        "--ipsec-conf=/c",
        "--root-ipsec-conf=/rc",
        "--ipsec-d=/d",
        "--ipsec-secrets=/s",
        "--ipsec-ctl=/ctl",
        "--use-default-crypto",
        "--command-timeout=7",
        "--guard-mode=enforce-always",
        "--guard-on-unknown=enforce",
        "--guard-ports=udp/4789, gre",
        "--guard-file=/g",
        "--allow-plain=tcp/7471",
        "--allow-hw-offload",
        "tcp:127.0.0.1:6640",
    ) == Settings(
        database="tcp:127.0.0.1:6640",
        root_prefix="/r",
        ipsec_conf="/c",
        root_ipsec_conf="/rc",
        ipsec_d="/d",
        ipsec_secrets="/s",
        ipsec_ctl="/ctl",
        use_default_crypto=True,
        command_timeout_s=7,
        guard_mode=GuardMode.ENFORCE_ALWAYS,
        guard_on_unknown=OnUnknown.ENFORCE,
        guard_ports=frozenset({GuardPort(Protocol.UDP, 4789), GuardPort(Protocol.GRE, None)}),
        guard_file="/g",
        allow_plain=frozenset({GuardPort(Protocol.TCP, 7471)}),
        allow_hw_offload=True,
    )


def test_all_violations_are_in_one_message() -> None:
    with pytest.raises(SettingsError) as caught:
        parse(
            "--ike-daemon=racoon",
            "--command-timeout=soon",
            "--guard-mode=loose",
            "--guard-on-unknown=off",
            "--guard-ports=udp/0,sctp/1,udp,gre/1",
            "--guard-file=guard.json",
            "--allow-plain=udp/70000",
            "--frobnicate",
        )
    message = str(caught.value)
    for word in (
        "DATABASE",
        "'racoon'",
        "'soon'",
        "'loose'",
        "'off'",
        "'udp/0'",
        "'sctp/1'",
        "'udp'",
        "'gre/1'",
        "'guard.json'",
        "'udp/70000'",
        "--frobnicate",
    ):
        assert word in message
    assert len(message.splitlines()) == 12


@pytest.mark.parametrize("database", ["", "db.sock", "ptcp:6640", "/run/db.sock"])
def test_database_that_is_no_remote_is_refused(database: str) -> None:
    with pytest.raises(SettingsError, match="DATABASE"):
        parse(database)


def test_guard_command_takes_what_the_agent_takes_of_the_same_name() -> None:
    flags = ("--guard-on-unknown=enforce", "--guard-ports=gre", "--guard-file=/g")
    settings = parse(*flags, DATABASE)
    assert parse_guard_arguments(["apply", *flags]) == GuardSettings(
        "apply", settings.guard_on_unknown, settings.guard_ports, settings.guard_file
    )
    with pytest.raises(SettingsError, match="'g': give an absolute path"):
        parse_guard_arguments(["apply", "--guard-file=g"])


def test_flag_without_its_value_is_a_settings_error_not_an_exit() -> None:
    with pytest.raises(SettingsError, match="--ipsec-conf"):
        parse(DATABASE, "--ipsec-conf")
