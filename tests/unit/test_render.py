"""`ovn-ipsec render`: what is read, what is refused and where, and the arithmetic of the MTU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ovn_ipsec.cli import main
from ovn_ipsec.errors import RenderError, SettingsError
from ovn_ipsec.render.advice import advice
from ovn_ipsec.render.command import RenderSettings, load_network, parse_render_arguments, render
from ovn_ipsec.render.document import parse_document
from ovn_ipsec.render.manifests import Installation, render_kustomization, render_values
from ovn_ipsec.render.model import ClusterNetwork, Encapsulation, Mode, Platform
from ovn_ipsec.render.mtu import Underlay, largest_pod_mtu, packet_size
from ovn_ipsec.render.network import read_network

BACKGROUND = """\
apiVersion: operator.openshift.io/v1
kind: Network
metadata:
  name: cluster
spec:
  defaultNetwork:
    type: OVNKubernetes
    ovnKubernetesConfig:
      ipsecConfig: {}
      mtu: 1400
"""
OVN = "spec.defaultNetwork.ovnKubernetesConfig"


def manifest(ovn: dict[str, Any] | None, **spec: Any) -> str:
    default = {"type": "OVNKubernetes"} | ({} if ovn is None else {"ovnKubernetesConfig": ovn})
    return yaml.safe_dump(
        {
            "apiVersion": "operator.openshift.io/v1",
            "kind": "Network",
            "metadata": {"name": "cluster"},
            "spec": {"defaultNetwork": default, **spec},
        }
    )


def read(text: str) -> tuple[ClusterNetwork | None, list[tuple[int, str]]]:
    root, problems = parse_document(text)
    network = None
    if root is not None:
        network, more = read_network(root)
        problems = problems + more
    return network, sorted((problem.line, problem.path) for problem in problems)


def said(tmp_path: Path, text: str, *flags: str) -> list[str]:
    file = tmp_path / "cluster-network-03-config.yml"
    file.write_text(text)
    settings = parse_render_arguments([str(file), "-o", str(tmp_path / "out"), *flags])
    try:
        load_network(settings)
    except RenderError as error:
        return [line.removeprefix(str(file)) for line in str(error).splitlines()]
    return []


def test_the_manifest_of_the_background_text_asks_for_ipsec_in_full() -> None:
    network, problems = read(BACKGROUND)
    assert problems == []
    assert network == ClusterNetwork(Mode.FULL, mtu=1400, mtu_line=10)


@pytest.mark.parametrize(
    ("ovn", "mode"),
    [
        (None, Mode.DISABLED),
        ({}, Mode.DISABLED),
        ({"ipsecConfig": None}, Mode.DISABLED),
        ({"ipsecConfig": {}}, Mode.FULL),
        ({"ipsecConfig": {"mode": "Full"}}, Mode.FULL),
        ({"ipsecConfig": {"mode": "External"}}, Mode.EXTERNAL),
        ({"ipsecConfig": {"mode": "Disabled"}}, Mode.DISABLED),
    ],
)
def test_what_is_said_of_ipsec_is_its_mode(ovn: dict[str, Any] | None, mode: Mode) -> None:
    network, problems = read(manifest(ovn))
    assert problems == []
    assert network is not None
    assert network.mode is mode


def test_fields_that_say_nothing_of_ipsec_are_passed_over() -> None:
    text = manifest(
        {
            "ipsecConfig": {"mode": "Full", "full": {"encapsulation": "Always"}},
            "genevePort": 6082,
            "gatewayConfig": {"routingViaHost": True},
            "ipv4": {"internalJoinSubnet": "100.99.0.0/16"},
            "hybridOverlayConfig": {"hybridClusterNetwork": []},
        },
        clusterNetwork=[{"cidr": "10.128.0.0/14", "hostPrefix": 23}],
        serviceNetwork=["172.30.0.0/16"],
        managementState="Managed",
    )
    network, problems = read(text)
    assert problems == []
    assert network == ClusterNetwork(
        Mode.FULL, Encapsulation.ALWAYS, geneve_port=6082, hybrid_overlay=True
    )


def test_everything_wrong_is_told_at_once_with_line_and_path(tmp_path: Path) -> None:
    text = BACKGROUND.replace("ipsecConfig: {}", "ipsecconfig: {}\n      genevePort: '6081'")
    text = text.replace("name: cluster", "name: cluster\n  name: other")
    lines = said(tmp_path, text.replace("type: OVNKubernetes", "type: OpenShiftSDN"))
    assert [line.rpartition(":")[0].split(": ")[0:2] for line in lines] == [
        [":5", "metadata.name"],
        [":8", "spec.defaultNetwork.type"],
        [":10", f"{OVN}.ipsecconfig"],
        [":11", f"{OVN}.genevePort"],
    ]


@pytest.mark.parametrize(
    ("ovn", "where"),
    [
        ({"ipsecConfig": []}, "ipsecConfig"),
        ({"ipsecConfig": {"mode": "full"}}, "ipsecConfig.mode"),
        ({"ipsecConfig": {"mode": True}}, "ipsecConfig.mode"),
        ({"ipsecConfig": {"full": {}}}, "ipsecConfig.full"),
        ({"ipsecConfig": {"mode": "External", "full": {}}}, "ipsecConfig.full"),
        (
            {"ipsecConfig": {"mode": "Full", "full": {"encapsulation": "always"}}},
            "ipsecConfig.full.encapsulation",
        ),
        ({"ipsecConfig": {"mode": "Full", "ful": {}}}, "ipsecConfig.ful"),
        ({"mtu": "1400"}, "mtu"),
        ({"mtu": 1400.0}, "mtu"),
        ({"mtu": True}, "mtu"),
        ({"mtu": 0}, "mtu"),
        ({"genevePort": 0}, "genevePort"),
        ({"genevePort": 65536}, "genevePort"),
    ],
)
def test_a_wrong_value_is_told_with_its_path(ovn: dict[str, Any], where: str) -> None:
    _, problems = read(manifest(ovn))
    assert [path for _, path in problems] == [f"{OVN}.{where}"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", 1),
        ("a: [", 1),
        ("a: 1\n\tb: 2", 2),
        ("a: &x 1\nb: *x\n", 2),
        ("---\na: 1\n---\nb: 2\n", 4),
        ("[" * 60 + "]" * 60, 1),
        ("\x00", 1),
    ],
)
def test_what_is_not_one_plain_document_is_refused_where_it_ends(text: str, line: int) -> None:
    root, problems = parse_document(text)
    assert root is None
    assert [problem.line for problem in problems] == [line]


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda data: data.decode("latin-1")))
def test_no_text_ends_the_reader_otherwise_than_with_problems(text: str) -> None:
    root, problems = parse_document(text)
    if root is not None:
        _, more = read_network(root)
        problems = problems + more
    # Nothing that is not a Network's manifest passes.
    assert problems


yaml_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["mode", "full", "mtu", "x"]), yaml_values, max_size=4))
def test_whatever_ipsec_config_holds_only_known_modes_pass(config: dict[str, Any]) -> None:
    network, problems = read(manifest({"ipsecConfig": config}))
    assert network is not None
    if not problems:
        assert set(config) <= {"mode", "full"}
        assert config.get("mode") in {None, *Mode}


@given(
    st.integers(576, 9200),
    st.integers(1280, 9216),
    st.booleans(),
    st.booleans(),
)
def test_the_largest_mtu_is_the_largest_that_fits(
    pod_mtu: int, mtu: int, ipv6: bool, nat: bool
) -> None:
    underlay = Underlay(mtu, ipv6=ipv6, nat_traversal=nat)
    largest = largest_pod_mtu(underlay)
    assert packet_size(largest, underlay) <= mtu < packet_size(largest + 1, underlay)
    assert (packet_size(pod_mtu, underlay) <= mtu) == (pod_mtu <= largest)


@pytest.mark.parametrize(
    ("underlay", "largest"),
    [
        (Underlay(1500), 1408),
        (Underlay(1500, nat_traversal=True), 1400),
        (Underlay(1500, ipv6=True), 1388),
        (Underlay(1500, ipv6=True, nat_traversal=True), 1380),
        (Underlay(9000), 8908),
    ],
)
def test_the_sizes_that_the_documentation_derives(underlay: Underlay, largest: int) -> None:
    assert largest_pod_mtu(underlay) == largest


def test_a_size_that_was_seen_on_the_wire() -> None:
    # A kernel geneve device, without OVN's option: inner 1400 gave an IPv4 packet of 1484 bytes.
    assert packet_size(1400 - 8, Underlay(1500)) == 1484


@pytest.mark.parametrize(
    ("mtu", "flags", "fits"),
    [
        (1408, [], True),
        (1409, [], False),
        (1408, ["--underlay-ipv6"], False),
        (1388, ["--underlay-ipv6"], True),
        (1450, [], False),
        (1450, ["--underlay-mtu", "1600"], True),
        (8908, [], True),
        (8950, [], False),
        (9100, ["--underlay-mtu", "9216"], True),
    ],
)
def test_an_mtu_that_does_not_fit_is_refused_with_one_that_does(
    tmp_path: Path, mtu: int, flags: list[str], fits: bool
) -> None:
    lines = said(tmp_path, BACKGROUND.replace("1400", str(mtu)), *flags)
    assert [line.split(": ")[:2] for line in lines] == ([] if fits else [[":10", f"{OVN}.mtu"]])


def test_always_encapsulating_leaves_less_room(tmp_path: Path) -> None:
    full = "ipsecConfig: {mode: Full, full: {encapsulation: Always}}"
    text = BACKGROUND.replace("ipsecConfig: {}", full)
    assert said(tmp_path, text) == []
    assert "give at most 1400" in said(tmp_path, text.replace("1400", "1408"))[0]


def test_the_advice_names_what_the_manifest_cannot_set() -> None:
    network = ClusterNetwork(Mode.FULL, Encapsulation.ALWAYS, hybrid_overlay=True)
    text = "\n".join(advice(network, None))
    assert "options:ipsec_encapsulation=true" in text
    assert "sets no mtu" in text
    assert "VXLAN" in text


networks = st.builds(
    ClusterNetwork,
    mode=st.sampled_from(Mode),
    geneve_port=st.integers(1, 65535),
)
images = st.none() | st.sampled_from(
    [
        "ovn-ipsec",
        "registry.example:5000/a/ovn-ipsec",
        "registry.example:5000/a/ovn-ipsec:1.2",
        "a/b@sha256:" + "0" * 64,
        "a/b:1@sha256:" + "0" * 64,
    ]
)


@given(st.builds(Installation, networks, st.sampled_from(Platform), images, st.booleans()))
def test_kustomization_and_chart_values_say_the_same(installation: Installation) -> None:
    kustomization = yaml.safe_load(render_kustomization(installation, "a\nb.yml"))
    values = yaml.safe_load(render_values(installation, "a\nb.yml"))
    assert values["mode"] == installation.network.mode
    assert values["platform"] == installation.platform
    assert values.get("image") == installation.image
    if installation.network.mode is Mode.DISABLED:
        assert kustomization["resources"] == ["base/namespace.yaml"]
        assert not {"configMapGenerator", "images", "components"} & set(kustomization)
        return
    assert kustomization["resources"] == [f"overlays/{installation.platform}"]
    external, staged = installation.network.mode is Mode.EXTERNAL, installation.staged_roll_out
    wanted = ["components/host-libreswan"] * external + ["components/staged-roll-out"] * staged
    assert kustomization.get("components", []) == wanted
    assert values["stagedRollOut"] is staged
    (generator,) = kustomization["configMapGenerator"]
    literals = dict(line.split("=", 1) for line in generator["literals"])
    assert literals == values["settings"]
    # Before IPsec is switched on all tunnels are plain.
    assert literals["guard-on-unknown"] == ("audit" if staged else "enforce")
    if installation.image is not None:
        (image,) = kustomization["images"]
        text = image["newName"] + (f":{image['newTag']}" if "newTag" in image else "")
        text += f"@{image['digest']}" if "digest" in image else ""
        assert text == installation.image


def files_of(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def settings_for(tmp_path: Path, output: str) -> RenderSettings:
    file = tmp_path / "net.yml"
    file.write_text(BACKGROUND)
    return parse_render_arguments([str(file), "-o", str(tmp_path / output)])


def test_rendering_again_replaces_all_of_the_last_rendering(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, "out")
    render(settings)
    first = files_of(settings.output)
    (settings.output / "base" / "node" / "gone-since.yaml").write_text("kind: Pod\n")
    render(settings)
    assert files_of(settings.output) == first
    assert not any(path.is_symlink() for path in settings.output.rglob("*"))


def test_a_directory_with_other_things_is_left_alone(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, "out")
    (settings.output / "base").mkdir(parents=True)
    (settings.output / "base" / "mine").write_text("x")
    with pytest.raises(RenderError, match="not empty"):
        render(settings)
    assert list(files_of(settings.output)) == ["base/mine"]


def test_a_mistake_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "net.yml"
    file.write_text(BACKGROUND.replace("1400", "1500"))
    assert main(["render", str(file), "-o", str(tmp_path / "out")]) == 1
    assert not (tmp_path / "out").exists()
    assert "give at most 1408" in capsys.readouterr().err


def test_every_wrong_flag_is_told_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        parse_render_arguments(
            ["f", "-o", "d", "--platform", "x", "--image", "A B", "--underlay-mtu", "٣"]
        )
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == [
        "--platform",
        "--image",
        "--underlay-mtu",
    ]
