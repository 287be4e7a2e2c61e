"""What is installed and shipped belongs together: versions, manifests, the image's recipe."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import yaml

import ovn_ipsec
from ovn_ipsec.settings import DEFAULT_GUARD_FILE, parse_guard_arguments
from tools.image.containerfile import packages, read_config
from tools.image.manifest import containers

REPOSITORY = Path(__file__).parents[2]
MANIFESTS = REPOSITORY / "manifests"


def metadata() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(REPOSITORY / "setup.cfg")
    return parser


def test_every_manifest_that_render_copies_is_installed() -> None:
    installed: dict[Path, str] = {}
    for target, lines in metadata().items("options.data_files"):
        if "manifests" not in target:
            continue
        files = [path for line in lines.split() for path in REPOSITORY.glob(line)]
        assert files, target
        installed |= {path: target for path in files if path.is_file()}
    wanted = {
        path
        for part in ("base", "components", "helm", "overlays")
        for path in (MANIFESTS / part).rglob("*")
        # The chart's links are followed by render, not by the wheel.
        if path.is_file() and path.resolve() == path
    }
    assert len(wanted) > 15
    assert set(installed) == wanted
    for path, target in installed.items():
        assert target == f"share/ovn-ipsec/{path.parent.relative_to(REPOSITORY)}"


def test_image_manifests_and_chart_are_of_this_version() -> None:
    version = ovn_ipsec.__version__
    labels = read_config((REPOSITORY / "Containerfile").read_text()).labels
    assert labels["org.opencontainers.image.version"] == version
    chart = yaml.safe_load((MANIFESTS / "helm" / "ovn-ipsec" / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (version, version)
    images = {
        image
        for part in ("base", "components")
        for path in (MANIFESTS / part).rglob("*.yaml")
        for image in re.findall(r"^ *(?:- )?image: (\S+)$", path.read_text(), re.MULTILINE)
    }
    assert images == {f"ovn-ipsec:{version}"}


def test_documented_guard_of_the_host_reads_the_file_that_the_pod_keeps() -> None:
    text = (REPOSITORY / "docs" / "kubernetes.md").read_text()
    (options,) = re.findall(r"GUARD_OPTIONS=([^'\n]*)", text)
    on_host = Path(parse_guard_arguments(["apply", *options.split()]).guard_file)
    in_pod = Path(DEFAULT_GUARD_FILE)
    daemon_set = yaml.safe_load((MANIFESTS / "base" / "node" / "daemonset.yaml").read_text())
    pod = daemon_set["spec"]["template"]["spec"]
    volumes = {item["name"]: item for item in pod["volumes"]}
    for name, item in containers(pod).items():
        if name not in ("guard", "agent"):
            continue
        assert not [word for word in item["command"] if word.startswith("--guard-file")]
        (volume,) = (
            volumes[mount["name"]]
            for mount in item["volumeMounts"]
            if mount["mountPath"] == str(in_pod.parent)
        )
        assert on_host == Path(volume["hostPath"]["path"]) / in_pod.name
    # The unit waits for where it is.
    unit = (MANIFESTS / "systemd" / "ovn-ipsec-guard.service").read_text()
    (mounts,) = re.findall(r"^RequiresMountsFor=(.*)$", unit, re.MULTILINE)
    for file in (in_pod, on_host):
        assert set(mounts.split()) & set(map(str, file.parents))


def test_systemd_never_gives_up_a_unit_that_it_is_to_keep_running() -> None:
    for path in (MANIFESTS / "systemd").glob("*.service"):
        unit = configparser.RawConfigParser(strict=False)
        unit.read(path)
        # By default five starts within 10 s are the last.
        pause = unit.getfloat("Service", "RestartSec", fallback=0.1)
        limit = unit.get("Unit", "StartLimitIntervalSec", fallback="10")
        assert pause * 5 > 10 or limit == "0", path.name


def test_the_image_installs_extras_that_exist() -> None:
    script = (REPOSITORY / "tools" / "image" / "make-venv.sh").read_text()
    (extras,) = re.findall(r"\$wheel\[([a-z,]+)\]", script)
    assert set(extras.split(",")) < set(metadata().options("options.extras_require"))


def test_the_recipe_is_read_as_a_builder_would_read_it() -> None:
    config = read_config(
        "ARG BASE\nFROM x AS build\nUSER 1\nENV A=1\n"
        'FROM y\nENV A=2 \\\n    B="c d"\nLABEL k="v=w"\n# USER 2\nUSER 3:3\nCMD ["a", "b c"]\n'
    )
    assert config.environment == {"A": "2", "B": "c d"}
    assert config.labels == {"k": "v=w"}
    assert (config.user, config.command) == ("3:3", ("a", "b c"))
    assert packages("# note\n\nb\n a \n") == ("b", "a")
