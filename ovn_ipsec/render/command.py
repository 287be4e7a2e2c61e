"""``ovn-ipsec render``: reads the manifest, writes what is to be applied."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ovn_ipsec.errors import OvnIpsecError, RenderError, SettingsError
from ovn_ipsec.render.advice import advice, judge_mtu
from ovn_ipsec.render.document import parse_document
from ovn_ipsec.render.manifests import (
    MARK,
    Installation,
    render_kustomization,
    render_values,
)
from ovn_ipsec.render.model import ClusterNetwork, Platform
from ovn_ipsec.render.network import read_network
from ovn_ipsec.settings import StrictParser

_MAX_SIZE = 1 << 20
_SOURCES = ("base", "components", "overlays")
_CHART = Path("helm", "ovn-ipsec")
_MIN_UNDERLAY = 1280
# Of the distribution's reference grammar what people write; anything else is a typing error.
_IMAGE = re.compile(r"[a-z0-9][a-zA-Z0-9._/:@-]{0,400}")


@dataclass(frozen=True, slots=True)
class RenderSettings:
    """The command line of ``ovn-ipsec render``."""

    manifest: Path
    output: Path
    platform: Platform
    image: str | None
    underlay_mtu: int | None
    underlay_ipv6: bool
    staged_roll_out: bool


def render_parser() -> StrictParser:
    """The command line of ``ovn-ipsec render``."""
    parser = StrictParser(
        prog="ovn-ipsec render",
        description="Makes Kubernetes manifests of an OpenShift cluster network configuration.",
    )
    add = parser.add_argument
    add("manifest", metavar="FILE", help="such as cluster-network-03-config.yml")
    add("-o", "--output", metavar="DIR", required=True, help="new, or rendered before")
    add("--platform", metavar="NAME", default=Platform.OPENSHIFT.value, help=", ".join(Platform))
    add("--image", metavar="REF", help="image of our pods, e.g. registry.example/ovn-ipsec:0.1.0")
    add("--underlay-mtu", metavar="BYTES", help="of the network between the nodes")
    add("--underlay-ipv6", action="store_true", help="tunnels run over IPv6")
    add("--staged-roll-out", action="store_true", help="IPsec is switched by ovn-ipsec cluster")
    return parser


def parse_render_arguments(argv: Sequence[str]) -> RenderSettings:
    """Raises SettingsError with every violation."""
    flags = render_parser().parse_args(argv)
    violations = []
    if flags.platform not in set(Platform):
        violations.append(f"--platform: {flags.platform!r} is not one of {', '.join(Platform)}")
    if flags.image is not None and not _IMAGE.fullmatch(flags.image):
        violations.append(f"--image: {flags.image!r} is no image such as registry/name:tag")
    mtu = flags.underlay_mtu
    if mtu is not None and not (mtu.isascii() and mtu.isdigit() and _is_mtu(int(mtu[:9]))):
        violations.append(f"--underlay-mtu: {mtu!r} is not a number from {_MIN_UNDERLAY} to 65535")
    if violations:
        raise SettingsError("\n".join(violations))
    return RenderSettings(
        manifest=Path(flags.manifest),
        output=Path(flags.output),
        platform=Platform(flags.platform),
        image=flags.image,
        underlay_mtu=None if mtu is None else int(mtu),
        underlay_ipv6=flags.underlay_ipv6,
        staged_roll_out=flags.staged_roll_out,
    )


def render(settings: RenderSettings) -> list[str]:
    """Write the files; returns advice. Raises RenderError with all that is wrong at once."""
    network = load_network(settings)
    installation = Installation(
        network, settings.platform, settings.image, staged_roll_out=settings.staged_roll_out
    )
    source = settings.manifest.name
    texts = {
        "kustomization.yaml": render_kustomization(installation, source),
        "values.yaml": render_values(installation, source),
    }
    try:
        _write(settings.output, texts)
    except OSError as error:
        raise RenderError(
            f"{error.filename or settings.output}: {error.strerror or error}; give a directory "
            "that can be written with -o"
        ) from error
    return advice(network, settings.underlay_mtu)


def load_network(settings: RenderSettings) -> ClusterNetwork:
    """The manifest as judged. Raises RenderError, one line for each problem."""
    file = str(settings.manifest)
    try:
        with settings.manifest.open("rb") as stream:
            data = stream.read(_MAX_SIZE + 1)
        text = data.decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not UTF-8 text"
        raise RenderError(f"{file}: {reason}; give the manifest of a Network") from error
    if len(data) > _MAX_SIZE:
        raise RenderError(f"{file}: larger than {_MAX_SIZE} bytes; give the manifest of a Network")
    root, problems = parse_document(text)
    if root is not None:
        network, more = read_network(root)
        mtu = judge_mtu(network, settings.underlay_mtu, ipv6=settings.underlay_ipv6)
        problems = [*problems, *more, *mtu]
        if not problems:
            return network
    ordered = sorted(problems, key=lambda problem: (problem.line, problem.path))
    raise RenderError("\n".join(problem.text(file) for problem in ordered))


def _write(output: Path, texts: dict[str, str]) -> None:
    """Replace an earlier rendering: a file that has gone since must not be applied again."""
    origin = _manifests()
    output.mkdir(parents=True, exist_ok=True)
    if any(output.iterdir()) and not _is_ours(output):
        raise RenderError(
            f"{output}: not empty, and not from an earlier rendering; give a new directory with -o"
        )
    for name, text in texts.items():
        (output / name).write_text(text, "utf-8")
    for part in (*_SOURCES, "helm"):
        if (output / part).exists():
            shutil.rmtree(output / part)
    links = shutil.ignore_patterns(*_SOURCES)  # the chart's, which lead to the same files
    shutil.copytree(origin / "helm", output / "helm", ignore=links)
    for part in _SOURCES:
        shutil.copytree(origin / part, output / part)
        shutil.copytree(origin / part, output / _CHART / part)


def _is_ours(output: Path) -> bool:
    try:
        return (output / "kustomization.yaml").read_text("utf-8").startswith(MARK)
    except (OSError, UnicodeDecodeError):
        return False


def _manifests() -> Path:
    """``manifests/`` of the source tree, or as the wheel installed it."""
    here = Path(__file__).parents[2] / "manifests"
    installed = Path(sys.prefix) / "share" / "ovn-ipsec" / "manifests"
    for place in (here, installed):
        if (place / "base" / "kustomization.yaml").is_file():
            return place
    raise OvnIpsecError(f"{installed}: our manifests are not there; install ovn-ipsec again")


def _is_mtu(number: int) -> bool:
    return _MIN_UNDERLAY <= number <= 65535
