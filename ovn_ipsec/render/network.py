"""Judges a cluster network manifest: pure, every problem at once.

The fields are those of ``operator.openshift.io/v1 Network`` (openshift/api,
operator/v1/types_network.go). Those that say nothing about IPsec are known by name and passed
over; a field with another name is a mistake, for a misspelt ``ipsecConfig`` means no encryption.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TypeVar

from ovn_ipsec.render.model import (
    ClusterNetwork,
    Encapsulation,
    Entry,
    Fields,
    Mode,
    Node,
    Problem,
    Scalar,
)

_API_VERSION = "operator.openshift.io/v1"
_SPEC = {
    "additionalNetworks",
    "additionalRoutingCapabilities",
    "clusterNetwork",
    "defaultNetwork",
    "deployKubeProxy",
    "disableMultiNetwork",
    "disableNetworkDiagnostics",
    "exportNetworkFlows",
    "kubeProxyConfig",
    "logLevel",
    "managementState",
    "migration",
    "observedConfig",
    "operatorLogLevel",
    "serviceNetwork",
    "unsupportedConfigOverrides",
    "useMultiNetworkPolicy",
}
_DEFAULT_NETWORK = {"kuryrConfig", "openshiftSDNConfig", "ovnKubernetesConfig", "type"}
_OVN_KUBERNETES = {
    "egressIPConfig",
    "gatewayConfig",
    "genevePort",
    "hybridOverlayConfig",
    "ipsecConfig",
    "ipv4",
    "ipv6",
    "mtu",
    "policyAuditConfig",
    "routeAdvertisements",
    "v4InternalSubnet",
    "v6InternalSubnet",
}
_MIN_MTU = 576
"""What every IPv4 host must take (RFC 791, 3.1): anything less is a typing error."""

_Kind = TypeVar("_Kind", bound=StrEnum)


def read_network(root: Node) -> tuple[ClusterNetwork, list[Problem]]:
    """What the manifest says; only to be used when there are no problems."""
    reader = _Reader()
    top = reader.fields(root, "", {"apiVersion", "kind", "metadata", "spec", "status"})
    reader.exactly(top, "apiVersion", "", _API_VERSION)
    reader.exactly(top, "kind", "", "Network")
    metadata = reader.inner(top, "metadata", "", None)
    reader.exactly(metadata, "name", "metadata", "cluster")
    spec = reader.inner(top, "spec", "", _SPEC)
    path = "spec.defaultNetwork"
    default = reader.inner(spec, "defaultNetwork", "spec", _DEFAULT_NETWORK)
    reader.exactly(default, "type", path, "OVNKubernetes")
    ovn_path = f"{path}.ovnKubernetesConfig"
    ovn = reader.inner(default, "ovnKubernetesConfig", path, _OVN_KUBERNETES, needed=False)
    mtu = reader.number(ovn, "mtu", ovn_path, _MIN_MTU, 65535)
    port = reader.number(ovn, "genevePort", ovn_path, 1, 65535)
    mode, encapsulation = _read_ipsec(reader, ovn, ovn_path)
    hybrid = reader.inner(ovn, "hybridOverlayConfig", ovn_path, None, needed=False)
    network = ClusterNetwork(
        mode=mode,
        encapsulation=encapsulation,
        mtu=mtu[0] if mtu else None,
        mtu_line=mtu[1] if mtu else 0,
        geneve_port=port[0] if port else 6081,
        hybrid_overlay=hybrid is not None,
    )
    return network, reader.problems


def _read_ipsec(reader: _Reader, ovn: Fields | None, ovn_path: str) -> tuple[Mode, Encapsulation]:
    path = f"{ovn_path}.ipsecConfig"
    ipsec = reader.inner(ovn, "ipsecConfig", ovn_path, {"full", "mode"}, needed=False)
    if ipsec is None:
        return Mode.DISABLED, Encapsulation.AUTO
    mode = reader.member(ipsec, "mode", path, Mode) or Mode.FULL
    full = reader.inner(ipsec, "full", path, {"encapsulation"}, needed=False)
    given = ipsec.get("mode")
    if full is not None and (given is None or mode is not Mode.FULL):
        reader.report(full.line, f"{path}.full", "only with mode: Full")
    encapsulation = reader.member(full, "encapsulation", f"{path}.full", Encapsulation)
    return mode, encapsulation or Encapsulation.AUTO


class _Reader:
    """Looks fields up; what is wrong with one is noted, and the others are still read."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def report(self, line: int, path: str, message: str) -> None:
        self.problems.append(Problem(line, path, message))

    def fields(self, node: Node, path: str, known: set[str] | None) -> Fields | None:
        """The node as a mapping with known keys only (None: any)."""
        if not isinstance(node, Fields):
            self.report(node.line, path, f"a mapping is expected, not {_kind(node)}")
            return None
        for entry in node.entries if known is not None else ():
            if entry.key not in (known or ()):
                self.report(entry.line, _join(path, entry.key), "unknown field")
        return node

    def inner(
        self,
        parent: Fields | None,
        key: str,
        path: str,
        known: set[str] | None,
        *,
        needed: bool = True,
    ) -> Fields | None:
        entry = self._entry(parent, key, path, needed=needed)
        return None if entry is None else self.fields(entry.value, _join(path, key), known)

    def exactly(self, parent: Fields | None, key: str, path: str, wanted: str) -> None:
        entry = self._entry(parent, key, path, needed=True)
        if entry is None:
            return
        if not isinstance(entry.value, Scalar) or entry.value.value != wanted:
            said = _kind(entry.value)
            self.report(entry.line, _join(path, key), f"{said}: it has to be {wanted}")

    def number(
        self, parent: Fields | None, key: str, path: str, least: int, most: int
    ) -> tuple[int, int] | None:
        """The number and its line."""
        entry = self._entry(parent, key, path, needed=False)
        if entry is None:
            return None
        value = entry.value.value if isinstance(entry.value, Scalar) else None
        # bool is an int to Python.
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            self.report(
                entry.line,
                _join(path, key),
                f"{_kind(entry.value)}: an integer from {least} to {most} is expected",
            )
            return None
        return value, entry.line

    def member(
        self, parent: Fields | None, key: str, path: str, kind: type[_Kind]
    ) -> _Kind | None:
        entry = self._entry(parent, key, path, needed=False)
        if entry is None:
            return None
        value = entry.value.value if isinstance(entry.value, Scalar) else None
        for member in kind:
            if member.value == value:
                return member
        choices = ", ".join(member.value for member in kind)
        self.report(entry.line, _join(path, key), f"{_kind(entry.value)} is not one of {choices}")
        return None

    def _entry(self, parent: Fields | None, key: str, path: str, *, needed: bool) -> Entry | None:
        entry = parent.get(key) if parent is not None else None
        if entry is not None and isinstance(entry.value, Scalar) and entry.value.value is None:
            entry = None  # null is as good as absent to Kubernetes
        if entry is None and needed and parent is not None:
            self.report(parent.line, _join(path, key), "missing")
        return entry


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _kind(node: Node) -> str:
    if isinstance(node, Fields):
        return "a mapping"
    return repr(node.value) if isinstance(node, Scalar) else "a list"
