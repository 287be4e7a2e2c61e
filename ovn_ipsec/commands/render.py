"""``ovn-ipsec render``: Kubernetes manifests of a cluster network configuration."""

from __future__ import annotations

from collections.abc import Sequence

from ovn_ipsec.errors import SettingsError


def run(argv: Sequence[str]) -> int:
    """Prints what is wrong with the manifest, or how to go on, in lines."""
    try:
        # Needs the YAML library, which a node does without.
        from ovn_ipsec.render.command import parse_render_arguments, render
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"render: {error.name} is not installed; pip install 'ovn-ipsec[render]'"
        ) from error
    for line in render(parse_render_arguments(argv)):
        print(line)
    return 0
