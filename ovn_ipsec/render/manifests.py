"""The texts that select and set our manifests: pure.

YAML is written by hand here: two short files, whose values are all of known kinds.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from ovn_ipsec.render.model import ClusterNetwork, Mode, Platform

DEFAULT_GENEVE_PORT = 6081

MARK = "# Made by ovn-ipsec render"
_HEADER = MARK + " from {source}; change that and render again.\n"


@dataclass(frozen=True, slots=True)
class Installation:
    """What is to be installed: a cluster network, and what its manifest does not say."""

    network: ClusterNetwork
    platform: Platform
    image: str | None = None
    """Such as ``registry.example/ovn-ipsec:0.1.0``; None: as the base has it."""
    staged_roll_out: bool = False
    """IPsec is switched on and off by ``ovn-ipsec cluster``."""


def settings(installation: Installation) -> dict[str, str]:
    """The keys of the ConfigMap ``ovn-ipsec-settings`` that differ from the base's.

    A cluster that is installed with IPsec has no plaintext tunnel to spare: closed at once. One
    that switches it on later begins with nothing else.
    """
    port = installation.network.geneve_port
    found = {"guard-on-unknown": "audit" if installation.staged_roll_out else "enforce"}
    if port != DEFAULT_GENEVE_PORT:
        found["guard-ports"] = f"udp/{port}"
    return found


def render_kustomization(installation: Installation, source: str) -> str:
    """``kustomization.yaml`` beside ``base``, ``components`` and ``overlays``."""
    mode = installation.network.mode
    lines = [
        _HEADER.format(source=json.dumps(source)) + "apiVersion: kustomize.config.k8s.io/v1beta1",
        "kind: Kustomization",
        "resources:",
    ]
    if mode is Mode.DISABLED:
        return "\n".join([*lines, "- base/namespace.yaml"]) + "\n"
    lines.append(f"- overlays/{installation.platform}")
    components = ["host-libreswan"] if mode is Mode.EXTERNAL else []
    components += ["staged-roll-out"] if installation.staged_roll_out else []
    if components:
        lines += ["components:", *(f"- components/{name}" for name in components)]
    lines += ["configMapGenerator:", "- name: ovn-ipsec-settings", "  namespace: ovn-ipsec"]
    lines += ["  behavior: merge", "  literals:"]
    lines += [f"  - {key}={value}" for key, value in sorted(settings(installation).items())]
    if installation.image is not None:
        name, tag, digest = split_image(installation.image)
        lines += ["images:", "- name: ovn-ipsec", f"  newName: {json.dumps(name)}"]
        lines += [f"  newTag: {json.dumps(tag)}"] if tag else []
        lines += [f"  digest: {json.dumps(digest)}"] if digest else []
    return "\n".join(lines) + "\n"


def render_values(installation: Installation, source: str) -> str:
    """Values for the chart ``helm/ovn-ipsec``, which then makes the same objects."""
    lines = [
        _HEADER.format(source=json.dumps(source)) + f"mode: {installation.network.mode}",
        f"platform: {installation.platform}",
        f"stagedRollOut: {json.dumps(installation.staged_roll_out)}",
        "settings:",
    ]
    found = sorted(settings(installation).items())
    lines += [f"  {key}: {json.dumps(value)}" for key, value in found]
    if installation.image is not None:
        lines.append(f"image: {json.dumps(installation.image)}")
    return "\n".join(lines) + "\n"


def split_image(image: str) -> tuple[str, str, str]:
    """Name, tag and digest of an image; the colon of a registry's port is in its name."""
    name, _, digest = image.partition("@")
    head, colon, tag = name.rpartition(":")
    return (head, tag, digest) if colon and "/" not in tag else (name, "", digest)
