"""What the parts of rendering hand each other."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Mode(StrEnum):
    """``ipsecConfig.mode`` (OpenShift API, ``operator.openshift.io/v1 Network``)."""

    DISABLED = "Disabled"
    EXTERNAL = "External"
    """The hosts run libreswan themselves, and leave its configuration to others: to us."""
    FULL = "Full"
    """Also what an empty ``ipsecConfig`` means; our pods bring libreswan along."""


class Encapsulation(StrEnum):
    """``ipsecConfig.full.encapsulation``: ESP in UDP (RFC 3948) only behind NAT, or always."""

    AUTO = "Auto"
    ALWAYS = "Always"


class Platform(StrEnum):
    """The overlays: who runs OVN, and hence where its socket and annotations are."""

    OVN_KUBERNETES = "ovn-kubernetes"
    OPENSHIFT = "openshift"
    KUBE_OVN = "kube-ovn"


@dataclass(frozen=True, slots=True)
class ClusterNetwork:
    """What a cluster network manifest says of IPsec."""

    mode: Mode
    encapsulation: Encapsulation = Encapsulation.AUTO
    mtu: int | None = None
    """Of pods, bytes. None: left to the platform."""
    mtu_line: int = 0
    geneve_port: int = 6081
    hybrid_overlay: bool = False
    """Windows nodes are reached by VXLAN tunnels that OVSDB has no rows for."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with a manifest, and where."""

    line: int
    """From 1."""
    path: str
    """Such as ``spec.defaultNetwork.type``; empty for the document."""
    message: str

    def text(self, file: str) -> str:
        where = f"{file}:{self.line}: "
        return f"{where}{self.path}: {self.message}" if self.path else where + self.message


@dataclass(frozen=True, slots=True)
class Scalar:
    """A YAML scalar as its type resolves."""

    line: int
    value: str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Items:
    """A YAML sequence."""

    line: int
    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """One key of a mapping."""

    line: int
    key: str
    value: Node


@dataclass(frozen=True, slots=True)
class Fields:
    """A YAML mapping; of a key that is given twice the first."""

    line: int
    entries: tuple[Entry, ...]

    def get(self, key: str) -> Entry | None:
        return next((entry for entry in self.entries if entry.key == key), None)


Node = Scalar | Items | Fields
