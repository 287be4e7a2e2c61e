"""Collects a node's state into one archive, also when the agent, pluto or OVSDB is dead.

Secrets are kept out three times: files that hold them are never added, values found in them are
hidden in everything else, and so is what looks like a secret.
"""

from __future__ import annotations

import io
import json
import os
import stat
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ovn_ipsec.drivers.command import run
from ovn_ipsec.errors import CommandError, OvnIpsecError
from ovn_ipsec.settings import StrictParser
from ovn_ipsec.status.client import AgentUnreachableError, ask_status, find_socket
from ovn_ipsec.support.redact import Redactor, secrets_of_file, secrets_of_key, secrets_of_rows

MEMBER_BYTES = 2 * 1024 * 1024
"""Of each file and each answer; of a longer log the newest part."""
BUNDLE_BYTES = 48 * 1024 * 1024
"""Before compression; what does not fit is named in the index."""
MOST_SECRET_FILES = 4096
COMMAND_WAIT_S = 15.0

LIBEXEC = "/usr/libexec/ipsec"
COMMANDS: Mapping[str, tuple[str, ...]] = {
    "system/uname": ("uname", "-a"),
    "system/date": ("date", "--utc", "+%Y-%m-%dT%H:%M:%SZ"),
    "system/processes": ("ps", "axww", "-o", "pid,ppid,etime,time,rss,comm"),
    "net/address": ("ip", "-s", "-d", "address"),
    "net/route": ("ip", "route", "show", "table", "all"),
    "net/route6": ("ip", "-6", "route", "show", "table", "all"),
    "net/sockets": ("ss", "-lunp"),
    "xfrm/state": ("ip", "-s", "xfrm", "state", "list", "nokeys"),
    "xfrm/policy": ("ip", "-s", "xfrm", "policy", "list", "nosock"),
    "guard/ruleset": ("nft", "list", "table", "inet", "ovn_ipsec"),
    "guard/tables": ("nft", "list", "tables"),
    "pluto/version": (f"{LIBEXEC}/whack", "--version"),
    "pluto/status": (f"{LIBEXEC}/whack", "--status"),
    "pluto/states": (f"{LIBEXEC}/whack", "--showstates", "--trafficstatus"),
    "pluto/global": (f"{LIBEXEC}/whack", "--globalstatus"),
    "pluto/certificates": (f"{LIBEXEC}/whack", "--listcerts", "--listcacerts"),
    "pluto/journal": ("journalctl", "--no-pager", "-o", "short-iso", "-n", "5000", "_COMM=pluto"),
    "agent/journal": (
        *("journalctl", "--no-pager", "-o", "short-iso", "-n", "5000"),
        *("-u", "ovn-ipsec", "-u", "ovn-ipsec-guard", "-u", "ovn-ipsec-enroll"),
    ),
    "nss/certificates": ("certutil", "-L", "-d", "sql:/var/lib/ipsec/nss"),
    "ovs/show": ("ovs-vsctl", "--timeout=5", "show"),
    "ovs/node": ("ovs-vsctl", "--timeout=5", "--format=json", "list", "Open_vSwitch"),
    "ovs/bridges": ("ovs-vsctl", "--timeout=5", "--format=json", "list", "Bridge"),
}
ROWS = ("ovs-vsctl", "--timeout=5", "--format=json", "list", "Interface")
FILES = (
    "proc/net/xfrm_stat",
    "proc/version",
    "etc/os-release",
    "etc/ipsec.conf",
    "etc/ipsec.d/*.conf",
    "etc/ipsec.d/ovn-ipsec/*.conf",
    "var/log/pluto.log",
    "var/log/openvswitch/ovs-monitor-ipsec.log",
    "var/log/openvswitch/ovs-vswitchd.log",
)
SECRET_FILES = (
    "etc/ipsec.secrets",
    "etc/ipsec.d/*.secrets",
    "etc/ipsec.d/ovn-ipsec/*.secrets",
    "etc/openvswitch/keys/*privkey*.pem",
    "var/lib/ovn-ipsec/**/*.pem",
    "var/lib/ovn-ipsec/**/*key*",
    "var/lib/ovn-ipsec/**/*token*",
)
"""Read for their secrets alone; only name, mode and owner are told."""
ENVIRONMENT = ("OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "PATH", "LANG", "KUBERNETES_SERVICE_HOST")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where to look; the defaults are the node's."""

    root: Path = Path("/")
    rundir: Path = Path("/var/run/openvswitch")
    program: str = "ovs-monitor-ipsec"
    environment: Mapping[str, str] | None = None
    timeout_s: float = COMMAND_WAIT_S
    commands: Mapping[str, Sequence[str]] | None = None


def bundle_parser() -> StrictParser:
    """The command line of ``ovn-ipsec support-bundle``."""
    parser = StrictParser(
        prog="ovn-ipsec support-bundle",
        description="Writes one archive with what a helper needs to see, without secrets.",
    )
    parser.add_argument("--output", metavar="FILE", help="default: in the working directory")
    return parser


def write_bundle(target: Path, around: Surroundings) -> tuple[str, ...]:
    """Write the archive (mode 0600); returns what could not be had. Raises OvnIpsecError."""
    collected = _Collected(around)
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise OvnIpsecError(
            f"{target}: cannot be written: {error.strerror}; name a new file with --output"
        ) from error
    with (
        os.fdopen(descriptor, "wb") as file,
        tarfile.open(fileobj=file, mode="w:gz", compresslevel=6) as archive,
    ):
        for name, text in collected.members():
            data = text.encode("utf-8", "replace")
            member = tarfile.TarInfo(f"ovn-ipsec-support/{name}")
            member.size, member.mode = len(data), 0o600
            archive.addfile(member, io.BytesIO(data))
    return tuple(collected.absent)


class _Collected:
    """One collection. Everything passes through ``_clean`` before it leaves."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._rows = self._run(ROWS)
        self._redactor = Redactor(self._secrets())
        self._left = BUNDLE_BYTES
        self.absent: list[str] = []

    def members(self) -> Iterator[tuple[str, str]]:
        """Name and text of each member; the index is the last."""
        commands = COMMANDS if self._around.commands is None else self._around.commands
        sources: list[tuple[str, Callable[[], str]]] = [
            ("agent/status.json", self._status),
            ("system/environment", self._environment),
            ("system/secret-files", self._secret_files),
            ("ovs/interfaces", lambda: self._rows),
        ]
        for name, argv in commands.items():
            sources.append((name, partial(self._run, argv)))
        for path in self._matching(FILES):
            shown = f"files/{path.relative_to(self._around.root)}"
            sources.append((shown, partial(_tail, path)))
        for name, source in sources:
            text = self._clean(source())[-MEMBER_BYTES:]
            if len(text) > self._left:
                self.absent.append(f"{name}: no room left in the bundle")
                continue
            self._left -= len(text)
            yield name, text
        yield "index", "".join(f"{line}\n" for line in ["not here:", *self.absent])

    def _clean(self, text: str) -> str:
        return self._redactor.clean(text)

    def _run(self, argv: Sequence[str]) -> str:
        try:
            done = run(argv, timeout_s=self._around.timeout_s, ok_codes=None)
        except CommandError as error:
            return f"{error}\n"
        ending = "" if done.returncode == 0 else f"\n(exit code {done.returncode})\n"
        return done.stdout + done.stderr + ending

    def _status(self) -> str:
        try:
            path = find_socket(self._around.rundir, self._around.program)
            return json.dumps(ask_status(path, refresh=False), indent=1)
        except AgentUnreachableError as error:
            self.absent.append(f"agent/status.json: {error}")
            return f"{error}\n"

    def _environment(self) -> str:
        around = self._around
        given = os.environ if around.environment is None else around.environment
        lines = [f"{name}={given[name]}" for name in ENVIRONMENT if name in given]
        others = sorted(given.keys() - set(ENVIRONMENT))
        return "\n".join([*lines, f"also set: {' '.join(others)}", ""])

    def _secret_files(self) -> str:
        lines = []
        for path in self._matching(SECRET_FILES):
            try:
                info = path.stat()
            except OSError as error:
                lines.append(f"{path}: {error.strerror}")
                continue
            mode = stat.filemode(info.st_mode)
            lines.append(f"{mode} {info.st_uid}:{info.st_gid} {info.st_size} {path}")
        return "".join(f"{line}\n" for line in lines)

    def _secrets(self) -> set[str]:
        secrets = secrets_of_rows(self._rows)
        for path in self._matching(SECRET_FILES):
            text = _tail(path)
            secrets |= secrets_of_file(text) | secrets_of_key(text)
            if "token" in path.name:
                secrets.add(text.strip())
        return secrets

    def _matching(self, patterns: Sequence[str]) -> list[Path]:
        found: dict[Path, None] = {}
        for pattern in patterns:
            try:
                for path in sorted(self._around.root.glob(pattern)):
                    if path.is_file():
                        found.setdefault(path)
            except OSError:
                continue
        return list(found)[:MOST_SECRET_FILES]


def _tail(path: Path) -> str:
    """The end of a file, whole lines only: half a secret would not be known for one."""
    try:
        with path.open("rb") as file:
            size = path.stat().st_size  # 0 below /proc
            if size > MEMBER_BYTES:
                file.seek(size - MEMBER_BYTES)
                file.readline()
            return file.read(MEMBER_BYTES).decode("utf-8", "replace")
    except OSError as error:
        return f"{path}: cannot be read: {error.strerror}\n"
