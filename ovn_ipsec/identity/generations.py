"""The directory of identities: one complete generation each, never changed, never half there.

::

    lock                        held by the one process that may change anything
    pending/                    key.pem and request.der, waiting for the certificate
    generation-7/               private-key.pem, certificate.pem, ca-bundle.pem
    crl.pem                     the deny-list (ovn_ipsec.identity.denylist)
    state.json                  how it goes, for people and monitoring
    .new-*, .old-*              what a crash left behind; deleted at the next start

A directory is filled under another name and then renamed, and emptied only after it was renamed
away, so each name stands for something whole.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ovn_ipsec.errors import EnrolmentError
from ovn_ipsec.identity.certificates import (
    Identity,
    describe,
    key_hash,
    load_certificate,
    load_roots,
    request_key_hash,
    request_name,
)
from ovn_ipsec.identity.disk import Disk
from ovn_ipsec.identity.model import Generation, Pending
from ovn_ipsec.model.conns import Secret

KEY = "private-key.pem"
CERTIFICATE = "certificate.pem"
BUNDLE = "ca-bundle.pem"

_PENDING_KEY = "key.pem"
_PENDING_REQUEST = "request.der"
_NAME = re.compile(r"(?:\.(?:new|old)-)?generation-([0-9]{1,18})")
_MAX_FILE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class WaitingRequest:
    """What lies in ``pending``."""

    key_pem: Secret
    csr_der: bytes


class Generations:
    """One node's directory, locked as long as this object is open."""

    def __init__(self, directory: Path, disk: Disk | None = None) -> None:
        """Raises EnrolmentError: it cannot be used, or another process has it."""
        self._directory = directory
        self._disk = disk or Disk()
        self._known: dict[int, Generation] = {}
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _failed("used", directory, error) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise EnrolmentError(
                f"{directory}: another enrolment holds it; run one process per directory"
            ) from error
        self._sweep()

    def close(self) -> None:
        """Let another process have the directory."""
        os.close(self._lock)

    def paths(self, number: int) -> Mapping[str, str]:
        """What ``Open_vSwitch:other_config`` must say for this generation."""
        place = self._place(number)
        return {
            "certificate": str(place / CERTIFICATE),
            "private_key": str(place / KEY),
            "ca_cert": str(place / BUNDLE),
        }

    def survey(self) -> tuple[tuple[Generation, ...], tuple[int, ...]]:
        """The sound generations, oldest first, and the numbers of the others."""
        damaged = []
        numbers = self._numbers("generation-")
        for number in numbers:
            if number not in self._known:
                try:
                    self._known[number] = describe(number, self.load(number))
                except EnrolmentError:
                    damaged.append(number)
        self._known = {key: self._known[key] for key in numbers if key in self._known}
        return tuple(self._known[key] for key in sorted(self._known)), tuple(sorted(damaged))

    def load(self, number: int) -> Identity:
        """A generation's content. Raises EnrolmentError."""
        place = self._place(number)
        return Identity(
            Secret(_read(place / KEY).decode("ascii", "replace")),
            load_certificate(_read(place / CERTIFICATE)),
            load_roots(_read(place / BUNDLE)),
        )

    def install(self, identity: Identity) -> int:
        """Write the next generation; its number once it is whole and on disk."""
        number = max(self._numbers(""), default=0) + 1
        self._fill(
            self._place(number),
            {
                KEY: identity.key_pem.reveal().encode(),
                CERTIFICATE: identity.certificate_pem,
                BUNDLE: identity.bundle_pem,
            },
        )
        return number

    def prune(self, number: int) -> None:
        """Delete a generation."""
        self._empty(self._place(number))

    def pending(self) -> Pending | None:
        """The waiting request, None when there is none or it is of no use."""
        try:
            waiting = self.waiting_request()
            key = key_hash(waiting.key_pem)
            if request_key_hash(waiting.csr_der) != key:
                return None
            return Pending(request_name(waiting.csr_der), key)
        except EnrolmentError:
            return None

    def waiting_request(self) -> WaitingRequest:
        """The waiting key and request. Raises EnrolmentError."""
        place = self._directory / "pending"
        key = Secret(_read(place / _PENDING_KEY).decode("ascii", "replace"))
        return WaitingRequest(key, _read(place / _PENDING_REQUEST))

    def keep_pending(self, key_pem: Secret, csr_der: bytes) -> None:
        """Put a key and its request where a restart finds them, before anybody is asked.

        The authority answers the same request again with the same certificate: an answer that
        was lost with this process is not lost.
        """
        self.drop_pending()
        files = {_PENDING_KEY: key_pem.reveal().encode(), _PENDING_REQUEST: csr_der}
        self._fill(self._directory / "pending", files)

    def drop_pending(self) -> None:
        """Forget the waiting request, if there is one."""
        if (self._directory / "pending").exists():
            self._empty(self._directory / "pending")

    def read_state(self) -> str:
        """What ``write_state`` wrote last. Raises EnrolmentError."""
        return _read(self._directory / "state.json").decode("utf-8", "replace")

    def write_state(self, text: str) -> None:
        """Replace ``state.json``."""
        new = self._directory / ".new-state"
        try:
            new.unlink(missing_ok=True)
            self._disk.write(new, text.encode())
            self._disk.replace(new, self._directory / "state.json")
        except OSError as error:
            raise _failed("written", new, error) from error

    def _place(self, number: int) -> Path:
        return self._directory / f"generation-{number}"

    def _numbers(self, prefix: str) -> list[int]:
        """Of every entry that begins so; those that are half made or half deleted for ""."""
        try:
            names = [entry.name for entry in self._directory.iterdir()]
        except OSError as error:
            raise _failed("read", self._directory, error) from error
        found = [_NAME.fullmatch(name) for name in names if name.startswith(prefix)]
        return sorted({int(match.group(1)) for match in found if match})

    def _fill(self, place: Path, files: Mapping[str, bytes]) -> None:
        new = place.with_name(f".new-{place.name}")
        try:
            if new.exists():
                self._delete(new)
            self._disk.make_directory(new)
            for name, data in files.items():
                self._disk.write(new / name, data)
            self._disk.sync(new)
            if place.exists():
                raise FileExistsError(None, "exists already")
            self._disk.rename(new, place)
            self._disk.sync(self._directory)
        except OSError as error:
            raise _failed("written", place, error) from error

    def _empty(self, place: Path) -> None:
        old = place.with_name(f".old-{place.name}")
        try:
            if old.exists():
                self._delete(old)
            self._disk.rename(place, old)
            self._disk.sync(self._directory)
            self._delete(old)
        except OSError as error:
            raise _failed("deleted", place, error) from error

    def _delete(self, directory: Path) -> None:
        for path in directory.iterdir():
            self._disk.remove(path)
        self._disk.remove_directory(directory)

    def _sweep(self) -> None:
        """Delete what an earlier process left half made or half deleted."""
        try:
            for path in self._directory.iterdir():
                if path.name.startswith((".new-", ".old-")):
                    if path.is_dir() and not path.is_symlink():
                        self._delete(path)
                    else:
                        self._disk.remove(path)
        except OSError as error:
            self.close()
            raise _failed("cleaned", self._directory, error) from error


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise _failed("read", path, error) from error
    if len(data) > _MAX_FILE_BYTES:
        raise EnrolmentError(f"{path}: has over {_MAX_FILE_BYTES} bytes")
    return data


def _failed(verb: str, path: Path, error: OSError) -> EnrolmentError:
    reason = error.strerror or str(error)
    return EnrolmentError(f"{path}: cannot be {verb}: {reason}; check space and permissions")
