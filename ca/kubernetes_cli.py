"""The command line of ``serve-kubernetes``, and of a state that lies in Kubernetes.

Imports the official client only when it is needed: other commands work without it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from ca.errors import UsageError
from ca.files import Files
from ca.settings import CaSettings

STATE = "kubernetes:"
"""Begins the name of such a state: kubernetes:NAMESPACE/NAME."""
_DEFAULT_STATE = f"{STATE}ovn-ipsec/ovn-ipsec-ca"
_AGENTS = "ovn-ipsec/ovn-ipsec-node"


def add_arguments(add: Callable[..., argparse.Action]) -> None:
    """Of ``serve-kubernetes``."""
    add(
        "--state",
        metavar=f"{STATE}NAMESPACE/NAME",
        default=_DEFAULT_STATE,
        help="the Secret that holds the authority (%(default)s)",
    )
    add("--signer-name", default="ipsec.ovn.org/node", help="whose requests (%(default)s)")
    add(
        "--service-account",
        action="append",
        metavar="NAMESPACE/NAME",
        help=f"of the nodes' agents; may be given several times ({_AGENTS})",
    )
    add(
        "--chassis-annotation",
        metavar="NAME",
        default="k8s.ovn.org/node-chassis-id",
        help="of Nodes, with their chassis id (%(default)s)",
    )
    add(
        "--inventory",
        metavar="NAMESPACE/NAME",
        help="ConfigMap that maps Nodes to chassis ids, instead of annotations",
    )
    add("--bundle", default="ovn-ipsec-ca", help="ConfigMap for nodes to read (%(default)s)")
    add("--name", help="common name of the roots, when there is no authority yet")


def open_files(state: str) -> tuple[Files, Path]:
    """The Secret of a ``kubernetes:NAMESPACE/NAME``. Raises UsageError."""
    namespace, name = namespaced(state.removeprefix(STATE))
    try:
        from ca.kubernetes_api import connect
        from ca.kubernetes_files import KubernetesFiles
    except ImportError as error:
        raise _missing(error) from error
    return KubernetesFiles(connect(), namespace, name), Path(name)


def serve(
    flags: argparse.Namespace,
    new_authority: CaSettings,
    clock: Callable[[], datetime],
    serials: Callable[[], str],
) -> None:
    """Answer until SIGTERM or SIGINT. Raises UsageError."""
    state = flags.state
    if not state.startswith(STATE):
        raise UsageError(f"--state {state}: serve-kubernetes needs {STATE}NAMESPACE/NAME")
    namespace, name = namespaced(state.removeprefix(STATE))
    accounts = frozenset(flags.service_account or [_AGENTS])
    for account in accounts:
        namespaced(account)
    inventory = namespaced(flags.inventory) if flags.inventory else None
    try:
        from ca import kubernetes_serve
    except ImportError as error:
        raise _missing(error) from error
    options = kubernetes_serve.Options(
        flags.signer_name,
        namespace,
        name,
        flags.bundle,
        accounts,
        flags.chassis_annotation,
        inventory,
    )
    kubernetes_serve.serve(options, new_authority, clock, serials)


def namespaced(text: str) -> tuple[str, str]:
    """NAMESPACE/NAME in two. Raises UsageError."""
    namespace, _, name = text.partition("/")
    if not namespace or not name or "/" in name:
        raise UsageError(f"{text!r} is not NAMESPACE/NAME")
    return namespace, name


def _missing(error: ImportError) -> UsageError:
    return UsageError(f"{error}; install it with: pip install 'ovn-ipsec[kubernetes]'")
