"""The authority's command line: argv to one call. The only place that prints and reads a clock."""

from __future__ import annotations

import argparse
import json
import logging
import secrets
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ca import backup, directory, kubernetes_cli, office, report, roots
from ca.csr import KeyKind
from ca.desk import LocalDesk
from ca.errors import CaError, UsageError
from ca.files import Files, RealFiles
from ca.requests import crls_pem
from ca.rollover import Step, survey
from ca.settings import CaSettings
from ca.store import Store, rebuild_head

DESCRIPTION = """Signs node certificates, binds each to one chassis, and remembers.

  init                make an authority
  token CHASSIS       make a join token, printed once
  serve               answer nodes: EST (RFC 7030) over HTTPS
  serve-kubernetes    answer CertificateSigningRequests of a Kubernetes cluster
  sign                sign on an operator's word: one request, or a directory of them
  list, show          what was issued and refused; the authority itself
  revoke CHASSIS      cut a node off
  admit CHASSIS       let a revoked node come back
  rotate-ca           roll over to a new root, step by step
  verify-log          find changed, moved and missing entries
  backup, restore     all of the state in one file
"""
DEFAULT_STATE = "/var/lib/ovn-ipsec-ca"
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "y": 365 * 86400}

Handler = Callable[[argparse.Namespace], int]
Adder = Callable[..., argparse.Action]


def main(argv: Sequence[str] | None = None) -> int:
    """``ovn-ipsec-ca``; returns the exit code."""
    flags = authority_parser().parse_args(argv)
    handler: Handler = flags.handler
    try:
        return handler(flags)
    except CaError as error:
        print(f"ovn-ipsec-ca: {error}", file=sys.stderr)
        return 1


def wall_clock() -> datetime:
    """Now, in UTC."""
    return datetime.now(UTC)


def open_store(state: str) -> Store:
    """The state directory. Raises StoreError."""
    return Store(*open_files(state))


def open_files(state: str) -> tuple[Files, Path]:
    """Where a state is: a directory, or kubernetes:NAMESPACE/NAME. Raises UsageError."""
    if state.startswith(kubernetes_cli.STATE):
        return kubernetes_cli.open_files(state)
    return RealFiles(), Path(state)


def open_desk(state: str) -> LocalDesk:
    """The desk on a state directory, for front ends of this machine. Raises StoreError."""
    return LocalDesk(open_store(state), wall_clock, office.random_serial)


def authority_parser() -> argparse.ArgumentParser:
    """The command line of ``ovn-ipsec-ca``."""
    parser = argparse.ArgumentParser(
        prog="ovn-ipsec-ca",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")
    _add_init(commands)
    _add_issuing(commands)
    _add_looking(commands)
    _add_keeping(commands)
    _add_serving(commands)
    return parser


def _command(commands: Any, name: str, handler: Handler, text: str) -> Adder:
    add = _command_without_state(commands, name, handler, text)
    add(
        "--state",
        metavar="DIR",
        default=DEFAULT_STATE,
        help=f"state directory, or {kubernetes_cli.STATE}NAMESPACE/NAME (%(default)s)",
    )
    return add


def _command_without_state(commands: Any, name: str, handler: Handler, text: str) -> Adder:
    parser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(handler=handler)
    add: Adder = parser.add_argument
    return add


def _add_init(commands: Any) -> None:
    add = _command(commands, "init", _init, "make an authority with its first root")
    defaults = {field.name: field.default for field in fields(CaSettings)}
    add("--name", help="common name of the roots (default: one that is unlikely to occur twice)")
    add("--organization", default=defaults["organization"], help="in every subject (%(default)s)")
    add(
        "--key", type=KeyKind, choices=list(KeyKind), default=defaults["key_kind"], dest="key_kind"
    )
    for flag, field, text in (
        ("--ca-life", "ca_life_s", "of a root"),
        ("--leaf-life", "leaf_life_s", "of a node's certificate"),
        ("--token-life", "token_life_s", "of a join token"),
        ("--crl-life", "crl_life_s", "of a CRL"),
        ("--settle", "settle_s", "between what nodes are told and what builds on it"),
        ("--deadline", "deadline_s", "for nodes to acknowledge a new root"),
    ):
        help_text = f"{text}: seconds, or a number with s, m, h, d or y (%(default)s)"
        add(flag, dest=field, type=duration_s, default=defaults[field], help=help_text)
    add("--manual-rollover", action="store_true", help="leave every roll-over step to people")


def _add_issuing(commands: Any) -> None:
    add = _command(commands, "token", _token, "make a join token; it is printed once")
    add("chassis", metavar="CHASSIS")
    add("--life", type=duration_s, help="how long it may be used (default: as set by init)")
    add("--replace", action="store_true", help="although the chassis has a certificate")
    add = _command(commands, "sign", _sign, "sign on an operator's word")
    add("--for", dest="chassis", metavar="CHASSIS", help="the node that CSR is for")
    add("--directory", action="store_true", help="sign every NAME.csr in IN, put NAME.crt in OUT")
    add("--replace", action="store_true", help="although the chassis has a certificate")
    add("paths", nargs="+", metavar="CSR | IN OUT", type=Path)
    add = _command(commands, "revoke", _revoke, "cut a node off, or revoke one certificate")
    add("chassis", metavar="CHASSIS", nargs="?")
    add("--serial", help="this certificate only; the node keeps its name")
    add = _command(commands, "admit", _admit, "let a revoked node have a certificate again")
    add("chassis", metavar="CHASSIS")


def _add_serving(commands: Any) -> None:
    add = _command(commands, "serve", _serve, "answer nodes: EST (RFC 7030) over HTTPS")
    add(
        "--name",
        action="append",
        required=True,
        help="DNS name or address that nodes call this server by; may be given several times",
    )
    add("--address", default="0.0.0.0", help="address to listen on (%(default)s)")  # noqa: S104 (nodes come from everywhere)
    add("--port", type=int, default=8443, help="(%(default)s)")
    text = "answer CertificateSigningRequests of a Kubernetes cluster"
    kubernetes_cli.add_arguments(
        _command_without_state(commands, "serve-kubernetes", _serve_kubernetes, text)
    )


def _add_looking(commands: Any) -> None:
    add = _command(commands, "list", _list, "certificates, newest of each node")
    add("--all", action="store_true", help="every certificate that is on record")
    add("--denied", action="store_true", help="refused requests")
    add("--tokens", action="store_true", help="join tokens")
    add("--json", action="store_true", help="for programs")
    add = _command(commands, "show", _show, "the authority, or what it gave one chassis")
    add("chassis", metavar="CHASSIS", nargs="?")
    add("--bundle", action="store_true", help="every root to trust, as PEM")
    add("--crl", action="store_true", help="the CRL, as PEM")
    add("--json", action="store_true", help="for programs")


def _add_keeping(commands: Any) -> None:
    add = _command(commands, "rotate-ca", _rotate, "roll over to a new root")
    add("step", choices=["status", *Step])
    add("--force", action="store_true", help="leave behind nodes that have not followed")
    add("--json", action="store_true", help="for programs")
    add = _command(commands, "verify-log", _verify, "check the issued log from its first entry")
    add("--expect", metavar="COUNT:HASH", help="a head noted earlier, which must be part of it")
    add("--rebuild-head", action="store_true", help=f"make {'log.head'} anew from the log")
    add = _command(commands, "backup", _backup, "all of the state, keys included, in one file")
    add("file", metavar="FILE", type=Path)
    add = _command(commands, "restore", _restore, "make a state directory from a backup")
    add("file", metavar="FILE", type=Path)


def _init(flags: argparse.Namespace) -> int:
    values = vars(flags)
    chosen = {f.name: values[f.name] for f in fields(CaSettings) if f.name in values}
    chosen["name"] = _root_name(flags.name)
    settings = CaSettings(**chosen, automatic_rollover=not flags.manual_rollover)
    roots.init_authority(*open_files(flags.state), settings, wall_clock(), office.random_serial)
    print(
        f"{flags.state}: authority {settings.name!r} is ready; keep a backup of it: "
        "ovn-ipsec-ca backup"
    )
    return 0


def _token(flags: argparse.Namespace) -> int:
    store = open_store(flags.state)
    desk = LocalDesk(store, wall_clock, office.random_serial)
    life = timedelta(seconds=flags.life or store.settings.token_life_s)
    warning = report.usable_again(store.inventory, flags.chassis, wall_clock())
    token = office.make_token(desk, flags.chassis, life, replace=flags.replace)
    print(token.text)
    print(
        f"token {token.handle}: once, for {flags.chassis}, until {token.expires}", file=sys.stderr
    )
    _warn(warning)
    return 0


def _serve(flags: argparse.Namespace) -> int:
    try:
        # Only this command needs an HTTP stack.
        from ca.est import serve
        from ca.est_tls import SelfIssued
    except ImportError as error:
        raise UsageError(f"{error}; install it with: pip install 'ovn-ipsec[ca]'") from error
    _log_to_stderr()
    desk = open_desk(flags.state)
    serve(desk, SelfIssued(desk, tuple(flags.name), wall_clock), flags.address, flags.port)
    return 0


def _serve_kubernetes(flags: argparse.Namespace) -> int:
    _log_to_stderr()
    settings = CaSettings(_root_name(flags.name))
    kubernetes_cli.serve(flags, settings, wall_clock, office.random_serial)
    return 0


def _sign(flags: argparse.Namespace) -> int:
    store, now = open_store(flags.state), wall_clock()
    desk = LocalDesk(store, wall_clock, office.random_serial)
    known = store.inventory
    warnings = {name: report.usable_again(known, name, now) for name in known.denied_names}
    if flags.directory:
        if len(flags.paths) != 2 or flags.chassis:
            raise UsageError("sign --directory takes IN and OUT, and no --for")
        results = directory.sign_directory(desk, *flags.paths, replace=flags.replace)
        for result in results:
            print(f"{result.chassis_id}: {'; '.join(result.reasons) or 'signed'}")
            if not result.reasons:
                _warn(warnings.get(result.chassis_id.lower(), ""))
        return 1 if any(result.reasons for result in results) else 0
    if len(flags.paths) != 1 or not flags.chassis:
        raise UsageError("sign takes --for CHASSIS and one CSR, or --directory IN OUT")
    pem = directory.sign_file(desk, flags.paths[0], flags.chassis, replace=flags.replace)
    print(pem.decode(), end="")
    _warn(warnings.get(flags.chassis.lower(), ""))
    return 0


def _revoke(flags: argparse.Namespace) -> int:
    if bool(flags.chassis) == bool(flags.serial):
        raise UsageError("revoke takes either CHASSIS or --serial")
    desk = open_desk(flags.state)
    if flags.serial:
        office.revoke_serial(desk, flags.serial)
        print(
            f"certificate {flags.serial} is revoked. Peers of CA-signed tunnels go by names and "
            "do not see a single serial: only revoke CHASSIS cuts its node off"
        )
        return 0
    entry = office.revoke_node(desk, flags.chassis)
    if entry.serials:
        what = f"{len(entry.serials)} certificates and its unused tokens"
    else:
        what = "its name; no valid certificate of it is on record, see ovn-ipsec-ca list"
    print(f"{flags.chassis} is revoked: {what}")
    return 0


def _admit(flags: argparse.Namespace) -> int:
    store = open_store(flags.state)
    desk = LocalDesk(store, wall_clock, office.random_serial)
    warning = report.usable_again(store.inventory, flags.chassis, wall_clock())
    office.admit_node(desk, flags.chassis)
    print(f"{flags.chassis} may have a certificate again, for a new key")
    _warn(warning)
    return 0


def _list(flags: argparse.Namespace) -> int:
    inventory, now = open_store(flags.state).inventory, wall_clock()
    if flags.denied:
        rows = report.denials(inventory)
    elif flags.tokens:
        rows = report.tokens(inventory, now)
    else:
        rows = report.certificates(inventory, now, every=flags.all)
    print(_json(rows) if flags.json else report.table(rows), end="")
    return 0


def _show(flags: argparse.Namespace) -> int:
    if flags.bundle:
        print(directory.bundle_pem(open_desk(flags.state)).decode(), end="")
        return 0
    if flags.crl:
        print(crls_pem(open_desk(flags.state).crls()).decode(), end="")
        return 0
    store, now = open_store(flags.state), wall_clock()
    if flags.chassis is None:
        state = survey(store.inventory, store.settings, now)
        values = report.overview(store.inventory, store.settings, store.head, state, now)
        print(_json(values) if flags.json else report.listing(values), end="")
        return 0
    live = list(store.inventory.live(flags.chassis, now))
    if not live:
        raise UsageError(f"{flags.chassis}: no live certificate; see ovn-ipsec-ca list --all")
    rows = report.certificates(store.inventory, now, every=True)
    mine = [row for row in rows if row["chassis_id"].lower() == flags.chassis.lower()]
    print(_json(mine) if flags.json else report.table(mine), end="")
    if not flags.json:
        print(directory.to_pem(live[-1].der).decode(), end="")
    return 0


def _rotate(flags: argparse.Namespace) -> int:
    store = open_store(flags.state)
    desk = LocalDesk(store, wall_clock, office.random_serial)
    if flags.step != "status":
        desk.take_step(Step(flags.step), force=flags.force)
    state = survey(store.inventory, store.settings, wall_clock())
    values = report.rollover(state, store.inventory.acknowledged)
    print(_json(values) if flags.json else report.listing(values), end="")
    return 0


def _verify(flags: argparse.Namespace) -> int:
    if flags.rebuild_head:
        rebuild_head(*open_files(flags.state))
    store = open_store(flags.state)
    if flags.expect:
        store.expect_head(flags.expect)
    unfinished = store.unfinished_bytes()
    print(f"{store.head.count} entries, whole; head {store.head.count}:{store.head.hash}")
    if unfinished:
        print(f"{unfinished} bytes of an interrupted write follow; the next write cuts them off")
    return 0


def _backup(flags: argparse.Namespace) -> int:
    files = RealFiles(keep_owner=True)  # whose directory it is has no right to the keys
    count = backup.back_up(files, open_store(flags.state), flags.file, wall_clock())
    print(
        f"{flags.file}: {count} entries; it holds the issuer's key: keep it as safe as the state"
    )
    return 0


def _restore(flags: argparse.Namespace) -> int:
    files, path = open_files(flags.state)
    store = backup.restore(RealFiles(), flags.file, files, path, wall_clock())
    print(
        f"{flags.state}: {store.head.count} entries. What was issued and revoked after the backup "
        "is not in it: revoke such nodes again, and give new tokens to those that joined since"
    )
    return 0


def _warn(text: str) -> None:
    if text:
        print(f"ovn-ipsec-ca: warning: {text}", file=sys.stderr)


def _root_name(given: str | None) -> str:
    # Two authorities of one name and different keys confuse every verifier that knows both.
    return given or f"ovn-ipsec CA {secrets.token_hex(4)}"


def _log_to_stderr() -> None:
    form = "%(asctime)s %(levelname)s %(message)s"
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format=form)


def duration_s(text: str) -> int:
    """Seconds, from a number with an optional unit."""
    number, unit = (text[:-1], text[-1:]) if text[-1:] in _UNITS_S else (text, "s")
    if not (number.isascii() and number.isdigit() and len(number) <= 9):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number with s, m, h, d or y")
    return int(number) * _UNITS_S[unit]


def _json(value: object) -> str:
    return json.dumps(value, indent=2) + "\n"


if __name__ == "__main__":
    sys.exit(main())
