"""Our files in libreswan's configuration: one per tunnel, their keys, never a partial one.

A file is ours when it starts with our header (index) or lies in our own directory. How a
restarted agent knows: by the record line in each per-tunnel file.
"""

from __future__ import annotations

import contextlib
import fnmatch
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ovn_ipsec.drivers import libreswan_adopt as adopt
from ovn_ipsec.drivers import libreswan_text as text
from ovn_ipsec.drivers.libreswan_secrets import SecretsFile
from ovn_ipsec.drivers.private_files import install, write_beside
from ovn_ipsec.errors import DriverError, ObservationError
from ovn_ipsec.model.conns import InstalledTunnel

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LibreswanPaths:
    """Where libreswan's files are. Every path is as this process sees it."""

    root_conf: Path = Path("/etc/ipsec.conf")
    """What pluto is started with."""
    root_secrets: Path = Path("/etc/ipsec.secrets")
    index_conf: Path = Path("/etc/ipsec.d/ovn-ipsec.conf")
    """Ours; the root file has to include it (the distribution's includes /etc/ipsec.d/*.conf)."""
    index_secrets: Path = Path("/etc/ipsec.d/ovn-ipsec.secrets")
    tunnels_dir: Path = Path("/etc/ipsec.d/ovn-ipsec")
    nss_dir: Path = Path("/var/lib/ipsec/nss")
    run_dir: Path = Path("/run/pluto")
    ctl: Path = Path("/run/pluto/pluto.ctl")
    libexec_dir: Path = Path("/usr/libexec/ipsec")
    ipsec: Path = Path("/usr/sbin/ipsec")
    pluto_log: Path | None = None
    """Where a pluto that we start logs; None: syslog."""

    @classmethod
    def from_flags(
        cls,
        root_prefix: str = "",
        *,
        ipsec_conf: str | None = None,
        root_ipsec_conf: str | None = None,
        ipsec_secrets: str | None = None,
        ipsec_d: str | None = None,
        ipsec_ctl: str | None = None,
    ) -> LibreswanPaths:
        """The paths that the original's flags name (COMPAT). Without them, the defaults.

        ``--ipsec-conf`` alone is the root file; with ``--root-ipsec-conf`` it is included by it.
        """

        def path(name: str) -> Path:
            return Path(root_prefix + name)

        conf = ipsec_conf or "/etc/ipsec.d/ovn-ipsec.conf"
        ctl = path(ipsec_ctl or "/run/pluto/pluto.ctl")
        return cls(
            root_conf=path(root_ipsec_conf or ipsec_conf or "/etc/ipsec.conf"),
            root_secrets=path("/etc/ipsec.secrets"),
            index_conf=path(conf),
            index_secrets=path(ipsec_secrets or "/etc/ipsec.d/ovn-ipsec.secrets"),
            tunnels_dir=path("/etc/ipsec.d/ovn-ipsec"),
            nss_dir=path(ipsec_d or "/var/lib/ipsec/nss"),
            run_dir=ctl.parent,
            ctl=ctl,
            libexec_dir=path("/usr/libexec/ipsec"),
            ipsec=path("/usr/sbin/ipsec"),
        )


@dataclass(frozen=True, slots=True)
class TunnelFiles:
    """What a tunnel's file must hold, and its line in the file of keys, if any."""

    tunnel: str
    conf: str
    secret: str | None


class TunnelStore:
    """The files of one node. Not thread-safe."""

    def __init__(self, paths: LibreswanPaths) -> None:
        self._paths = paths
        self._installed: dict[str, InstalledTunnel] | None = None
        self._legacy: dict[str, InstalledTunnel] = {}
        self._warnings: dict[str, str] = {}
        self._laid_out = False
        self._secrets = SecretsFile(paths.tunnels_dir)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the operator has to change so that pluto can start without the agent."""
        return tuple(self._warnings.values())

    def installed(self) -> Mapping[str, InstalledTunnel]:
        """Records of ours and, for tunnels we have none of, of the original's.

        A damaged file counts as absent, with a warning. Raises ObservationError: the directory
        exists and cannot be read.
        """
        if self._installed is None:
            ours = self._read_ours()
            self._legacy = {k: v for k, v in self._read_legacy().items() if k not in ours}
            self._installed = ours
        return self._legacy | self._installed

    @property
    def keys_unread(self) -> bool:
        """Whether pluto may not know the keys as they are on disk."""
        return self._secrets.unread

    def write(self, files: Iterable[TunnelFiles]) -> dict[str, str]:
        """Install tunnels' files; returns tunnel -> error.

        A tunnel's old file stays untouched when its new one, or the keys, cannot be written.
        Raises ObservationError as ``installed``.
        """
        errors: dict[str, str] = {}
        self.installed()
        self._layout()
        staged: list[tuple[TunnelFiles, Path]] = []
        for item in files:
            try:
                staged.append((item, write_beside(self._file(item.tunnel), item.conf)))
            except OSError as error:
                errors[item.tunnel] = _os_message("written", self._paths.tunnels_dir, error)
        if not staged:
            return errors
        lines = {text.file_stem(item.tunnel): item.secret for item, _ in staged}
        try:
            self._secrets.change(lines)
        except OSError as error:
            why = _os_message("written", self._paths.tunnels_dir, error)
            for item, temporary in staged:
                temporary.unlink(missing_ok=True)
                errors[item.tunnel] = why
            return errors
        for item, temporary in staged:
            try:
                self._commit(item, temporary)
            except OSError as error:
                errors[item.tunnel] = _os_message("written", self._paths.tunnels_dir, error)
        _sync_dir(self._paths.tunnels_dir)
        return errors

    def remove(self, tunnel: str) -> None:
        """Delete a tunnel's file; its key goes with the next ``settle_keys``.

        Raises DriverError.
        """
        conf = self._file(tunnel)
        try:
            self.installed()
            conf.unlink(missing_ok=True)
            self._secrets.forget(text.file_stem(tunnel))
        except OSError as error:
            raise DriverError(_os_message("removed", conf, error)) from error
        if self._installed is not None:
            self._installed.pop(tunnel, None)
        self.forget_legacy(tunnel)

    def settle_keys(self) -> None:
        """Take the keys of removed tunnels from the disk; a warning tells when that fails."""
        try:
            self._secrets.settle()
        except OSError as error:
            message = _os_message("written", self._paths.tunnels_dir, error)
            self._warnings["keys"] = f"keys of removed tunnels are still on disk: {message}"
        else:
            self._warnings.pop("keys", None)

    def keys_read(self) -> None:
        """pluto has read the keys since they were changed last."""
        try:
            self._secrets.read_by_pluto()
        except OSError as error:
            _LOG.warning("%s", _os_message("changed", self._paths.tunnels_dir, error))

    def forget_legacy(self, tunnel: str) -> None:
        """A tunnel of the original's is settled; with the last one its files become ours."""
        if self._legacy.pop(tunnel, None) is not None and not self._legacy:
            self._laid_out = False

    def remove_all(self) -> None:
        """Delete what is ours: tunnels, then the indexes. Raises DriverError."""
        paths = self._paths
        try:
            for path in _listing(paths.tunnels_dir):
                path.unlink()
            if paths.tunnels_dir.is_dir():
                paths.tunnels_dir.rmdir()
            named = (("conf", paths.index_conf), ("secrets", paths.index_secrets))
            for index in (self._index(path, kind) for kind, path in named):
                if index.exists() and _is_ours(index):
                    index.unlink()
        except OSError as error:
            raise DriverError(_os_message("removed", paths.tunnels_dir, error)) from error
        self._installed = {}
        self._secrets = SecretsFile(paths.tunnels_dir)
        self._laid_out = False

    def settle(self) -> None:
        """Take over the original's root files once none of its tunnels needs them any more."""
        if not self._laid_out:
            self._layout()

    def _file(self, tunnel: str) -> Path:
        return self._paths.tunnels_dir / f"{text.file_stem(tunnel)}.conf"

    def _commit(self, item: TunnelFiles, temporary: Path) -> None:
        try:
            temporary.replace(self._file(item.tunnel))
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        if self._installed is not None:
            self._installed[item.tunnel] = text.parse_record(item.conf)
        self.forget_legacy(item.tunnel)

    def _read_ours(self) -> dict[str, InstalledTunnel]:
        ours: dict[str, InstalledTunnel] = {}
        try:
            found = _listing(self._paths.tunnels_dir)
            with_key = self._secrets.stems()
        except OSError as error:
            message = _os_message("read", self._paths.tunnels_dir, error)
            raise ObservationError(message) from error
        for path in found:
            if path.name.startswith("."):
                # What a killed agent left half-written; never included by pluto.
                with contextlib.suppress(OSError):
                    path.unlink()
            if path.suffix != ".conf" or path.name.startswith("."):
                continue
            try:
                content = path.read_text("utf-8")
                record = text.parse_record(content)
                if self._file(record.name) != path:
                    raise DriverError(f"it is the file of another tunnel, {record.name!r}")
                if text.needs_secret(content) and path.stem not in with_key:
                    _LOG.warning("%s: its pre-shared key is missing and is written anew", path)
                    record = replace(record, keyless=True)
                ours[record.name] = record
            except (OSError, ValueError, DriverError) as error:
                self._warnings[str(path)] = f"{path}: ignored and to be rewritten: {error}"
                _LOG.warning("%s: ignored: %s", path, error)
        # What else there is belongs to tunnels whose removal was cut short.
        self._secrets.keep_only({text.file_stem(name) for name in ours})
        self.settle_keys()
        return ours

    def _read_legacy(self) -> dict[str, InstalledTunnel]:
        paths = self._paths
        secrets = [_read(path) for path in {paths.root_secrets, paths.index_secrets}]
        generated = "\n".join(item for item in secrets if adopt.is_generated(item))
        legacy: dict[str, InstalledTunnel] = {}
        for path in {paths.root_conf, paths.index_conf}:
            content = _read(path)
            if adopt.is_generated(content):
                legacy |= adopt.parse_generated(content, generated)
        return legacy

    def _layout(self) -> None:
        """Our directory, the indexes, and a root that includes them (or a warning)."""
        if self._laid_out:
            return
        paths = self._paths
        try:
            self.installed()
            paths.tunnels_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            paths.tunnels_dir.chmod(0o700)
            self._lay_index(self._index(paths.index_conf, "conf"), paths.root_conf, "conf")
            secrets = self._index(paths.index_secrets, "secrets")
            self._lay_index(secrets, paths.root_secrets, "secrets")
        except OSError as error:
            self._warnings["layout"] = _os_message("prepared", paths.tunnels_dir, error)
            return
        except ObservationError as error:
            self._warnings["layout"] = str(error)
            return
        self._warnings.pop("layout", None)
        self._laid_out = True

    def _index(self, named: Path, kind: str) -> Path:
        """The index that the flags name, or one beside our tunnels if that is foreign."""
        present = _read(named)
        if present == "" or present.startswith(text.HEADER) or adopt.is_generated(present):
            return named
        return self._paths.tunnels_dir.parent / f"ovn-ipsec.{kind}"

    def _lay_index(self, index: Path, root: Path, kind: str) -> None:
        pattern = str(self._paths.tunnels_dir / f"*.{kind}")
        content = text.render_index(pattern)
        present = _read(index)
        if present == "" or _is_ours(index) or (adopt.is_generated(present) and not self._legacy):
            if present != content:
                install(index, content)
        elif pattern not in text.included_patterns(present):
            self._warnings[f"index-{kind}"] = (
                f"{index}: is not ours and stays as it is; add the line 'include {pattern}', so"
                " that the IKE daemon loads the tunnels when it starts without the agent"
            )
            return
        self._warnings.pop(f"index-{kind}", None)
        if root != index:
            self._lay_root(index, root, kind)

    def _lay_root(self, index: Path, root: Path, kind: str) -> None:
        present = _read(root)
        include = str(index.parent / f"*.{kind}")
        if present == "" or (adopt.is_generated(present) and not self._legacy):
            whole = text.render_root_conf if kind == "conf" else text.render_index
            install(root, whole(include))
        elif not any(_covers(root, p, index) for p in text.included_patterns(present)):
            state = "still serves tunnels of" if adopt.is_generated(present) else "is not"
            whom = " ovs-monitor-ipsec" if adopt.is_generated(present) else " ours"
            self._warnings[f"root-{kind}"] = (
                f"{root}: {state}{whom} and does not include {index}; add the line"
                f" 'include {include}', so that the IKE daemon loads the tunnels when it starts"
                " without the agent"
            )
            return
        self._warnings.pop(f"root-{kind}", None)


def _covers(root: Path, pattern: str, index: Path) -> bool:
    absolute = pattern if pattern.startswith("/") else str(root.parent / pattern)
    return fnmatch.fnmatchcase(str(index), absolute)


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "surrogateescape")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise ObservationError(_os_message("read", path, error)) from error


def _is_ours(path: Path) -> bool:
    return _read(path).startswith(text.HEADER)


def _listing(directory: Path) -> list[Path]:
    return sorted(directory.iterdir()) if directory.is_dir() else []


def _sync_dir(directory: Path) -> None:
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        # The files are in place; whether they outlive a power cut is not worth a tunnel.
        _LOG.warning("%s", _os_message("synchronised", directory, error))


def _os_message(verb: str, path: Path, error: OSError) -> str:
    return f"{path} cannot be {verb}: {error.strerror or error}; check space and permissions"
