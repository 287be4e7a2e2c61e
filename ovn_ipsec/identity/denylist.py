"""The authority's deny-list on this node: followed, checked, and handed to the agent as a file.

What the agent expects of ``other_config:ca_crl``: one PEM file with a CRL by each root of the
bundle, replaced by rename. It verifies them itself; what is checked here is that one bad answer
does not replace a good list.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cryptography import x509

from ovn_ipsec.errors import BusyError, EnrolmentError
from ovn_ipsec.identity.certificates import bundle_digest, load_roots, signed_lists
from ovn_ipsec.identity.disk import Disk
from ovn_ipsec.identity.drop import DropDirectory
from ovn_ipsec.identity.est import Credentials, EstServer, Lists
from ovn_ipsec.identity.kubernetes import KubernetesWay
from ovn_ipsec.identity.node import Database, Wait
from ovn_ipsec.identity.ovsdb import NodeDatabase
from ovn_ipsec.identity.settings import EnrollSettings

_LOG = logging.getLogger(__name__)

FILE = "crl.pem"
SETTING = "ca_crl"
_NEW = ".new-crl"
"""A name that ``Generations`` sweeps away after a crash."""
_LOOK_S = 1.0
_LOOK_DIRECTORY_S = 5.0
_FIRST_RETRY_S = 1.0
_LONGEST_RETRY_S = 60.0


class Source(Protocol):
    """Where lists come from: ``EstServer``, ``DropDirectory`` or ``KubernetesWay``."""

    def lists(self, own: Credentials, known: str | None) -> Lists | None:
        """The CRLs, None when there are no others than those of the tag. Raises EnrolmentError.

        May wait for others.
        """


@dataclass(frozen=True, slots=True)
class _Taken:
    """What the file was made of."""

    tag: str | None
    bundle: str
    """Digest of the roots that it was checked by."""
    pem: bytes


class DenyList:
    """The file ``crl.pem`` in the identity's directory. For one thread."""

    def __init__(
        self,
        directory: Path,
        source: Source,
        credentials: Callable[[], Credentials | None],
        database: Database,
        *,
        look_s: float = _LOOK_S,
        chance: Callable[[], float] | None = None,
    ) -> None:
        """``chance``: random numbers from 0 up to 1, so that nodes do not come all at once."""
        self._directory = directory
        self._path = directory / FILE
        self._source = source
        self._credentials = credentials
        self._database = database
        self._look_s = look_s
        self._chance = chance or random.SystemRandom().random
        self._disk = Disk()
        self._taken: _Taken | None = None
        self._failures = 0
        self._said: tuple[str, ...] = ()

    def follow(self, wait: Wait) -> None:
        """Until told to end. Nothing that goes wrong here ends it, or anything else."""
        while True:
            try:
                pause_s = self.follow_once()
            except Exception:  # noqa: BLE001 (a fault must not leave the node without news)
                _LOG.exception("Deny-list: a fault; it is tried again")
                pause_s = _LONGEST_RETRY_S
            if wait(pause_s):
                return

    def follow_once(self) -> float:
        """Ask once, and wait for the answer. Returns the seconds until the next time."""
        own = self._credentials()
        if own is None:
            return self._look_s
        problems = []
        pause_s = self._look_s * self._chance()
        try:
            self._renew(own)
            self._failures = 0
        except EnrolmentError as error:
            problems.append(str(error))
            pause_s = self._after_failure(error)
        # Also after a failure: the list that is there counts.
        try:
            self._point()
        except EnrolmentError as error:
            problems.append(str(error))
        self._say(tuple(problems))
        return pause_s

    def _renew(self, own: Credentials) -> None:
        bundle = _roots(own.bundle)
        digest, held, taken = bundle_digest(bundle), self._held(), self._taken
        # With other roots another part of the same answer may count.
        same = taken is not None and (taken.bundle, taken.pem) == (digest, held)
        answer = self._source.lists(own, taken.tag if taken and same else None)
        if answer is None:
            return
        try:
            pem, left_out = signed_lists(answer.pem, bundle)
        except EnrolmentError as error:
            raise EnrolmentError(
                f"the answer is refused: {error}; the list in place stays"
            ) from error
        if pem != held:
            self._write(pem)
            _LOG.info("Deny-list: there is a new one, %s", self._path)
        if left_out:
            _LOG.info("Deny-list: CRLs by roots that are not trusted (yet) left out: %d", left_out)
        self._taken = _Taken(answer.tag, digest, pem)

    def _point(self) -> None:
        """Have OVSDB name the file."""
        if not self._path.exists():
            return
        wanted = str(self._path)
        if self._database.read().other_config.get(SETTING) != wanted:
            self._database.set_other_config({SETTING: wanted})
            _LOG.info("OVSDB names the deny-list, %s", wanted)

    def _held(self) -> bytes | None:
        try:
            return self._path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _failed("read", self._path, error) from error

    def _write(self, pem: bytes) -> None:
        new = self._directory / _NEW
        try:
            new.unlink(missing_ok=True)
            self._disk.write(new, pem)
            self._disk.replace(new, self._path)
            self._disk.sync(self._directory)
        except OSError as error:
            raise _failed("written", self._path, error) from error

    def _after_failure(self, error: EnrolmentError) -> float:
        longest = min(_FIRST_RETRY_S * (1 << min(self._failures, 10)), _LONGEST_RETRY_S)
        self._failures += 1
        asked_s = error.retry_after_s if isinstance(error, BusyError) else 0.0
        return max(longest * (0.5 + 0.5 * self._chance()), asked_s)

    def _say(self, problems: tuple[str, ...]) -> None:
        """One log line per change."""
        for problem in problems:
            if problem not in self._said:
                _LOG.warning("Deny-list: %s", problem)
        if self._said and not problems:
            _LOG.info("Deny-list: in order again")
        self._said = problems


def build_deny_list(
    settings: EnrollSettings,
    credentials: Callable[[], Credentials | None],
    courier: DropDirectory | KubernetesWay | None,
) -> DenyList:
    """The deny-list that the settings describe, for a thread of its own."""
    database = NodeDatabase(settings.database)  # its own, too
    source = courier or EstServer(settings.url or "", settings.server_name)
    look_s = _LOOK_DIRECTORY_S if isinstance(courier, DropDirectory) else _LOOK_S
    return DenyList(settings.directory, source, credentials, database, look_s=look_s)


def _roots(path: Path) -> tuple[x509.Certificate, ...]:
    try:
        return load_roots(path.read_bytes())
    except OSError as error:
        raise _failed("read", path, error) from error


def _failed(verb: str, path: Path, error: OSError) -> EnrolmentError:
    reason = error.strerror or str(error)
    return EnrolmentError(f"{path}: cannot be {verb}: {reason}; check space and permissions")
