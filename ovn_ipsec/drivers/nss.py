"""Certificates and keys in pluto's NSS database: observes them, replaces them under pluto.

How a running pluto uses the database decides the order of every replacement:

- It holds the certificate of each connection in memory. ``rereadcerts`` looks it up again by
  nickname and takes what NSS likes best: the newest of that nickname, among the entries of
  the database *and* those that pluto itself still holds.
- Once a certificate that it holds has left the database, each authentication with it fails,
  even if it is put back; when the key alone has left, libreswan 5.2 aborts.

So: add the new one, have it reread, and only then delete the old certificate, then its key.
At every point in between pluto can authenticate, and the next ``apply`` ends what a crash
left half done. Where NSS would not prefer the new one (it begins earlier than the old one: a
rollback), a short-lived certificate leads over (``_bridge``).

Ours are the entries whose nickname begins with ``ovs_cert_`` or ``ovs_certkey_``; all others
are only looked at.
"""

from __future__ import annotations

import datetime as dt
import functools
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ovn_ipsec.drivers.command import run
from ovn_ipsec.drivers.nss_database import Contents, Entry, NssDatabase
from ovn_ipsec.errors import DriverError, ObservationError
from ovn_ipsec.model.conns import Credential, CredentialKind, InstalledCredential
from ovn_ipsec.model.steps import InstallCredential, Outcome, RemoveCredential, Step

_LOG = logging.getLogger(__name__)

NSS_DIRECTORY = Path("/var/lib/ipsec/nss")
CA_NICKNAME = "ovs_cert_cacert"
"""In the model all CAs have this nickname. NSS allows one subject per nickname, so CAs of
further subjects are ``ovs_cert_cacert-XXXXXXXX`` in the database."""
BRIDGE_S = 10
"""How long a certificate lives that leads from one to an older one."""
_BRIDGE_NAME = "ovn-ipsec bridge"
_WHACK_TIMEOUT_S = 30.0
_TRUST = {CredentialKind.CA: "CT,,", CredentialKind.PEER: "P,P,P"}
_PLUTO_DOWN = ("is not running", "Connection refused")
_UNREADABLE = (
    ValueError,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What cryptography raises for certificates that NSS takes and it does not."""


class Nss:
    """The database that pluto opens, and pluto as its user."""

    def __init__(
        self,
        now: Callable[[], dt.datetime],
        directory: Path = NSS_DIRECTORY,
        whack: Sequence[str] = ("ipsec", "whack"),
    ) -> None:
        """``now``: the wall clock in UTC. ``whack``: argv that reaches the pluto concerned."""
        self._now = now
        self._directory = directory
        self._whack_argv = tuple(whack)
        self._database = NssDatabase(directory)
        self._observed: tuple[tuple[int, ...], tuple[InstalledCredential, ...]] | None = None

    def observe(self) -> tuple[InstalledCredential, ...]:
        """Every entry, foreign ones too; keys without a certificate have no fingerprint.

        Reads anew only when the files changed. Raises ObservationError or CommandError.
        """
        if not self._database.exists():
            return ()
        try:
            signature = self._signature()
        except OSError as error:
            raise ObservationError(
                f"NSS database {self._directory}: {error.strerror}; check its files"
            ) from error
        if self._observed is None or self._observed[0] != signature:
            contents = self._database.read()
            trust = self._database.trust()
            self._observed = (signature, tuple(_installed(contents, trust)))
        return self._observed[1]

    def apply(self, steps: Iterable[Step]) -> list[Outcome]:
        """Do the InstallCredential and RemoveCredential steps; others are refused.

        All the credentials that a plan wants under one nickname (the CAs of a bundle) must
        come in one call: whatever else has that nickname is removed.
        """
        steps = list(steps)
        wanted: dict[str, list[Credential]] = {}
        for step in steps:
            if isinstance(step, InstallCredential):
                wanted.setdefault(step.credential.nickname, []).append(step.credential)
        errors = {
            nickname: self._attempt(functools.partial(self._install, nickname, credentials))
            for nickname, credentials in wanted.items()
        }
        outcomes = []
        for step in steps:
            if isinstance(step, InstallCredential):
                error = errors[step.credential.nickname]
            elif isinstance(step, RemoveCredential):
                error = self._attempt(functools.partial(self._remove, step.nickname))
            else:
                error = f"{type(step).__name__} is not a step on credentials"
            outcomes.append(Outcome(step, error))
        return outcomes

    def _attempt(self, act: Callable[[], None]) -> str | None:
        self._observed = None
        try:
            act()
        except (DriverError, OSError) as error:
            return str(error)
        return None

    def _install(self, nickname: str, wanted: Sequence[Credential]) -> None:
        self._database.create()
        for credential in wanted:
            self._add(credential)
        keep = {credential.fingerprint for credential in wanted}
        if wanted[0].kind is CredentialKind.CA:
            self._forget_roots()
            if removed := self._purge(nickname, keep):
                self._forget_roots()
                self._warn_of_ghosts(removed)
            self._name_a_ca(nickname)
        else:
            if self._in_use(nickname):
                self._lead_over(wanted[0])
                self._reread(nickname)
            self._purge(nickname, keep)
        _LOG.info("Installed %d certificate(s) as %s", len(wanted), nickname)

    def _remove(self, nickname: str) -> None:
        if not self._database.exists():
            return
        if self._in_use(nickname):
            raise DriverError(f"{nickname}: a loaded connection still uses it; it goes later")
        removed = self._purge(nickname, keep=set())
        if nickname == CA_NICKNAME:
            self._forget_roots()
            self._warn_of_ghosts(removed)
        _LOG.info("Removed %s", nickname)

    def _add(self, credential: Credential) -> None:
        """Put the entry beside whatever has its nickname now."""
        der = _der(credential.pem)
        contents = self._database.read()
        present = next((entry for entry in contents.entries if entry.der == der), None)
        if present is None or (credential.key and present.key_id not in contents.keys):
            others = [e for e in contents.entries if e.nickname == credential.nickname]
            taken = any(_subject(entry.der) != _subject(der) for entry in others)
            # NSS allows one subject per nickname.
            nickname = _spare_nickname(credential) if taken else credential.nickname
            if credential.key:
                self._database.add_pair(nickname, credential.pem, credential.key.reveal())
            else:
                trust = _TRUST[credential.kind]
                self._database.add_certificate(nickname, credential.pem, trust)
        elif credential.kind is CredentialKind.CA:
            self._database.add_certificate(
                present.nickname, credential.pem, _TRUST[credential.kind]
            )
        self._settle_nickname(credential, der)

    def _settle_nickname(self, credential: Credential, der: bytes) -> None:
        """NSS names an entry as others of its subject are named; have it named as ours.

        Where the subject changed, the old entry has to go first: for about 0.1 s, until the
        reread, pluto cannot authenticate with it (it tries again by itself).
        """
        entries = self._database.read().entries
        placed = next((entry for entry in entries if entry.der == der), None)
        if placed is None:
            raise DriverError(f"{credential.nickname}: NSS took the certificate and lost it")
        if _group(placed.nickname) == credential.nickname:
            return
        if credential.kind is CredentialKind.CA:
            self._database.label(der, _spare_nickname(credential))
            return
        for entry in entries:
            if entry.nickname == credential.nickname and _subject(entry.der) != _subject(der):
                self._database.delete_certificate(entry.der)
        self._database.label(der, credential.nickname)

    def _name_a_ca(self, nickname: str) -> None:
        """One of the CAs has the plain nickname, for people and for the original program."""
        entries = [e for e in self._database.read().entries if _group(e.nickname) == nickname]
        if entries and all(entry.nickname != nickname for entry in entries):
            self._database.label(entries[0].der, nickname)

    def _lead_over(self, credential: Credential) -> None:
        """Make sure that a reread finds ``credential``, or lead pluto there by a bridge.

        Raises DriverError while the bridge is in use; a later ``apply`` ends it.
        """
        nickname = credential.nickname
        der = _der(credential.pem)
        if self._database.prefers(nickname, der):
            return
        waiting = f"{nickname}: begins earlier than the one it replaces; pluto takes it in"
        now = self._now()
        for entry in self._database.read().entries:
            if entry.nickname == nickname and (ends := _bridge_end(entry.der)) and ends > now:
                raise DriverError(f"{waiting} {(ends - now).total_seconds():.0f} s")
        bridge = _bridge(credential, now)
        if credential.key:
            self._database.add_pair(nickname, bridge.pem, credential.key.reveal())
        else:
            self._database.add_certificate(nickname, bridge.pem, _TRUST[credential.kind])
        if not self._database.prefers(nickname, _der(bridge.pem)):
            self._database.delete_certificate(_der(bridge.pem))
            raise DriverError(f"{nickname}: NSS prefers the old certificate; issue a new one")
        self._reread(nickname)
        self._purge(nickname, {credential.fingerprint, bridge.fingerprint})
        raise DriverError(f"{waiting} {BRIDGE_S} s")

    def _purge(self, nickname: str, keep: set[str]) -> list[Entry]:
        """Delete every entry of the nickname but ``keep``, and every key thus unused."""
        contents = self._database.read()
        stale = [
            entry
            for entry in contents.entries
            if _group(entry.nickname) == nickname and entry.fingerprint not in keep
        ]
        for entry in stale:
            self._database.delete_certificate(entry.der)
        contents = self._database.read()
        used = {entry.key_id for entry in contents.entries}
        freed = {entry.key_id for entry in stale}
        unused = [
            key_id
            for key_id, label in contents.keys.items()
            if key_id not in used
            and (key_id in freed or nickname in (label, _SPARE.sub("", label)))
        ]
        for key_id in unused:
            self._database.delete_key(key_id)
        if unused:
            # pluto keeps private keys by their NSS handle, and a handle dies with its key.
            self._whack("--rereadsecrets")
        return stale

    def _in_use(self, nickname: str) -> bool:
        """A loaded connection has the entry for itself or its peer."""
        if nickname == CA_NICKNAME:
            return False
        status = self._whack("--status")
        return bool(re.search(rf"(my|peer)cert={re.escape(nickname)}[;,\s]", status))

    def _reread(self, nickname: str) -> None:
        said = self._whack("--rereadcerts")
        for line in said.splitlines():
            if f"cert='{nickname}' failed" in line:
                raise DriverError(
                    f"pluto keeps its old certificate: {line.strip()}; restart pluto, or have "
                    "the connections replaced"
                )

    def _forget_roots(self) -> None:
        """Have pluto read the CAs anew: libreswan 4 keeps them for 5 minutes after each use.

        5.x does so on ``rereadcerts`` too; this event is the only way that both have.
        """
        said = self._whack("--impair", "trigger:FREE_ROOT_CERTS")
        if said and "FREE_ROOT_CERTS" not in said:
            _LOG.warning("pluto did not drop its cached CAs, wait 5 minutes: %s", said.strip())

    def _warn_of_ghosts(self, removed: Sequence[Entry]) -> None:
        """A CA that has verified a certificate stays in a running pluto's memory for good."""
        listed = self._whack("--listcacerts")
        serials = {int(found, 16) for found in re.findall(r"SN: 0x([0-9a-f]+)", listed)}
        for entry in removed:
            certificate = _parsed(entry.der)
            if certificate and certificate.serial_number in serials:
                subject = certificate.subject.rfc4514_string()
                _LOG.warning("pluto trusts the removed CA %a until pluto is restarted", subject)

    def _whack(self, *argv: str) -> str:
        """What pluto answers; empty when it is not running."""
        done = run([*self._whack_argv, *argv], timeout_s=_WHACK_TIMEOUT_S, ok_codes=None)
        said = done.stdout + done.stderr
        return "" if any(word in said for word in _PLUTO_DOWN) else said or "\n"

    def _signature(self) -> tuple[int, ...]:
        parts: list[int] = []
        for file in ("cert9.db", "key4.db"):
            status = (self._directory / file).stat()
            parts += [status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
        return tuple(parts)


_SPARE = re.compile(r"-[0-9a-f]{8}$")


def _spare_nickname(credential: Credential) -> str:
    """A nickname of ours that no other subject has; ``_SPARE`` takes it back."""
    return f"{credential.nickname}-{credential.fingerprint[:8]}"


def _group(nickname: str) -> str:
    """The nickname that the model knows an entry by."""
    return CA_NICKNAME if _SPARE.sub("", nickname) == CA_NICKNAME else nickname


def _installed(contents: Contents, trust: Mapping[str, str]) -> Iterable[InstalledCredential]:
    for entry in contents.entries:
        yield InstalledCredential(
            nickname=_group(entry.nickname),
            fingerprint=entry.fingerprint,
            has_key=entry.key_id in contents.keys,
            trust=trust.get(entry.nickname, ""),
            is_root=_is_root(entry.der),
        )
    used = {entry.key_id for entry in contents.entries}
    for key_id, label in contents.keys.items():
        if key_id not in used:
            yield InstalledCredential(label, "", has_key=True, trust="")


def _der(pem: str) -> bytes:
    certificate = x509.load_pem_x509_certificate(pem.encode())
    return certificate.public_bytes(serialization.Encoding.DER)


def _parsed(der: bytes) -> x509.Certificate | None:
    """None: a foreign entry that cryptography refuses, and that we only look at."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        # Names are read when first asked for, and may be what cannot be read.
        _ = certificate.issuer, certificate.subject
    except _UNREADABLE:
        return None
    return certificate


def _subject(der: bytes) -> bytes:
    certificate = _parsed(der)
    return certificate.subject.public_bytes() if certificate else b""


def _is_root(der: bytes) -> bool:
    certificate = _parsed(der)
    if certificate is None or certificate.issuer != certificate.subject:
        return False
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, *_UNREADABLE):
        return certificate.version is x509.Version.v1


@dataclass(frozen=True, slots=True)
class _Bridge:
    pem: str
    fingerprint: str


def _bridge(credential: Credential, now: dt.datetime) -> _Bridge:
    """A certificate of the same subject and key, newer than any other, that ends soon.

    NSS prefers it to the old certificate, so pluto lets go of that one, and once it has
    expired NSS prefers ``credential``. Nobody trusts its issuer: a node that authenticates in
    these seconds is refused and tries again; a pinned peer is known by its key all the while.
    """
    original = x509.load_pem_x509_certificate(credential.pem.encode())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(original.subject)
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _BRIDGE_NAME)]))
        .public_key(original.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + dt.timedelta(seconds=BRIDGE_S))
        .sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    )
    return _Bridge(
        certificate.public_bytes(serialization.Encoding.PEM).decode(),
        certificate.fingerprint(hashes.SHA256()).hex(),
    )


def _bridge_end(der: bytes) -> dt.datetime | None:
    certificate = _parsed(der)
    if certificate is None or _BRIDGE_NAME not in certificate.issuer.rfc4514_string():
        return None
    return certificate.not_valid_after_utc
