"""The image: what is in it, what answers, and the node's containers with their own rights."""

from __future__ import annotations

import json
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

import ovn_ipsec
from ovn_ipsec.cli import main
from tests.image.conftest import TAG, new_pod
from tests.kubernetes.rendered import (
    MANIFESTS,
    Object,
    kustomize,
    node_pod,
    settings,
)
from tools.image import manifest
from tools.image.container import Image, Pod
from tools.image.manifest import containers
from tools.image.oci import Container, Mount

pytestmark = pytest.mark.kubernetes

_numbers = count()
OUR_PATHS = ("opt", "etc/ipsec.d", "var/lib/ovn-ipsec", "var/lib/ipsec", "run/ovn-ipsec")


def answer(pod: Pod, *command: str, user: int = 65532) -> str:
    """What a command says as the image's own user, without any capability."""
    code, said = pod.run(Container(f"answer-{next(_numbers)}", command, user=user))
    assert code == 0, said
    return said


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("ovn-ipsec --version", re.escape(ovn_ipsec.__version__)),
        ("ovn-ipsec agent --help", "--http"),
        ("ovn-ipsec enroll --help", "--kubernetes"),
        ("ovn-ipsec render --help", "--underlay-mtu"),
        ("ovn-ipsec-ca serve-kubernetes --help", "--signer-name"),
        ("ovs-monitor-ipsec --help", "--ike-daemon"),
        ("ipsec --version", r"Libreswan 4\.10"),
        ("nft --version", "nftables v1"),
        ("ovs-appctl --version", "Open vSwitch"),
        ("ovs-vsctl --version", "Open vSwitch"),
        ("certutil -H", "Create a new"),
        ("ip -V", "iproute2"),
        # What only some commands import.
        ("python3 -c import\tkubernetes,yaml,h11,ovs.jsonrpc;print(1)", "1"),
        ("python3 -c import\tprometheus_client,rich;print(1)", "1"),
    ],
)
def test_every_program_answers_without_rights(
    shared_pod: Pod, command: str, expected: str
) -> None:
    words = [word.replace("\t", " ") for word in command.split(" ")]
    if words[0] == "certutil":
        words = ["/bin/sh", "-c", "certutil -H 2>&1 | cat"]
    assert re.search(expected, answer(shared_pod, *words))


def test_the_configuration_is_that_of_the_containerfile(layout: Path, shared_pod: Pod) -> None:
    index = json.loads((layout / "index.json").read_text())
    (entry,) = index["manifests"]
    assert entry["annotations"]["org.opencontainers.image.ref.name"] == TAG

    def blob(digest: str) -> Object:
        found = json.loads((layout / "blobs" / digest.replace(":", "/")).read_text())
        assert isinstance(found, dict)
        return found

    config = blob(blob(entry["digest"])["config"]["digest"])["config"]
    assert config["Labels"]["org.opencontainers.image.version"] == ovn_ipsec.__version__
    assert config["User"] == "65532:65532"
    assert config["Cmd"] == ["ovn-ipsec", "--help"]
    assert shared_pod.image.environment[0].startswith("PATH=/opt/ovn-ipsec/bin:")


def files(root: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for directory, names, more in os.walk(root):
        for name in names + more:
            path = Path(directory, name)
            yield path, path.lstat()


def test_there_is_no_compiler_no_cache_and_nothing_editable(shared_pod: Pod) -> None:
    root = shared_pod.image.root
    names = {path.name for path, _ in files(root / "usr/bin")}
    assert "python3" in names
    assert not {"cc", "gcc", "g++", "ld", "make", "pip", "pip3"} & names
    assert not list((root / "var/lib/apt/lists").glob("*_*"))
    assert not list(root.glob("root/.cache/*"))
    packages = root / "opt/ovn-ipsec/lib/python3.11/site-packages"
    assert (packages / "ovn_ipsec" / "cli.py").is_file()
    assert not list(packages.glob("pip*"))
    assert not list(packages.glob("__editable__*"))
    assert not list(packages.glob("*.egg-link"))


def test_nothing_of_ours_can_be_written_by_others_and_nothing_gives_rights(
    shared_pod: Pod,
) -> None:
    root = shared_pod.image.root
    ours = [item for path in OUR_PATHS for item in files(root / path)]
    assert len(ours) > 1000
    plain = [(path, found) for path, found in ours if not stat.S_ISLNK(found.st_mode)]
    assert not [path for path, found in plain if found.st_mode & 0o022]
    assert not [path for path, found in ours if found.st_uid or found.st_gid]
    assert not [
        path
        for path, found in files(root)
        if stat.S_ISREG(found.st_mode) and found.st_mode & 0o6000
    ]


NETWORK = """\
apiVersion: operator.openshift.io/v1
kind: Network
metadata: {name: cluster}
spec: {defaultNetwork: {type: OVNKubernetes, ovnKubernetesConfig: {ipsecConfig: {}, mtu: 1400}}}
"""


def test_an_installed_render_has_all_that_the_source_tree_has(
    shared_pod: Pod, tmp_path: Path
) -> None:
    (tmp_path / "net.yml").write_text(NETWORK)
    command = ["ovn-ipsec", "render", "/in/net.yml", "-o", "/in/installed"]
    mounts = [Mount(tmp_path, "/in")]
    code, said = shared_pod.run(Container("render", command, mounts=mounts))
    assert code == 0, said
    assert main(["render", str(tmp_path / "net.yml"), "-o", str(tmp_path / "source")]) == 0
    made = {
        place: {
            path.relative_to(tmp_path / place): path.read_text()
            for path in (tmp_path / place).rglob("*")
            if path.is_file()
        }
        for place in ("installed", "source")
    }
    assert len(made["source"]) > 30
    assert made["installed"] == made["source"]


class NodePod:
    """The DaemonSet's pod: its command lines, rights and mounts, from the manifest."""

    def __init__(self, pod: Pod, host: Path) -> None:
        made = kustomize(MANIFESTS / "overlays" / "ovn-kubernetes")
        self._specification = node_pod(made)
        self._manifest = manifest.Pod(self._specification, settings(made))
        self._host = host
        self.pod = pod

    def container(self, name: str) -> Container:
        volumes = {
            volume.name: self._host / volume.name for volume in self._manifest.volumes(name)
        }
        for directory in volumes.values():
            directory.mkdir(exist_ok=True)
        return self._manifest.container(name, volumes)

    def hook(self, name: str) -> list[str]:
        return self._manifest.pre_stop(name)

    def probe(self, name: str, kind: str) -> tuple[int, str]:
        """What the kubelet would hear, asked from within the pod's network."""
        probe = containers(self._specification)[name][kind]
        if "exec" in probe:
            return self.pod.execute(name, *probe["exec"]["command"])
        get = probe["httpGet"]
        url = f"http://{get['host']}:{get['port']}{get['path']}"
        ask = f"import urllib.request as u; print(u.urlopen({url!r}, timeout=5).read().decode())"
        return self.pod.execute(name, "python3", "-c", ask)


@pytest.fixture
def node(image: Image, tmp_path: Path) -> Iterator[NodePod]:
    pod = new_pod(image, tmp_path / "pod")
    host = tmp_path / "host"
    host.mkdir()
    yield NodePod(pod, host)
    pod.close()


def within(seconds: float, what: Callable[[], tuple[int, str]]) -> str:
    deadline = time.monotonic() + seconds
    while True:
        code, said = what()
        if code == 0:
            return said
        assert time.monotonic() < deadline, said
        time.sleep(0.5)


OVSDB = """
ovsdb-tool create /run/openvswitch/conf.db /usr/share/openvswitch/vswitch.ovsschema
ovsdb-server --remote=punix:/run/openvswitch/db.sock --unixctl=/run/openvswitch/server.ctl \
    /run/openvswitch/conf.db &
ovs-vsctl --no-wait --retry -- init -- set open . external_ids:system-id=node-1
chmod 0700 /run/openvswitch/db.sock
chown 65532:65532 /run/openvswitch/db.sock
echo there
wait
"""


READERS = """
import os, pathlib, signal
for at in pathlib.Path("/proc").glob("[0-9]*"):
    if (at / "comm").read_text() in ("sh\\n", "tail\\n"):
        os.kill(int(at.name), signal.SIGSTOP)
"""


def test_plutos_log_is_kept_short_and_pluto_waits_for_no_reader(node: NodePod) -> None:
    pod, log = node.pod, "/run/pluto/pluto.log"
    pod.start(node.container("pluto"))
    within(30, lambda: node.probe("pluto", "livenessProbe"))
    assert "NSS crypto library initialized" in pod.log("pluto")

    def fill(size: int) -> None:
        script = f"head -c {size} /dev/zero | tr '\\0' x >> {log}"
        assert pod.execute("pluto", "/bin/sh", "-c", script) == (0, "")

    def size() -> int:
        return int(pod.execute("pluto", "stat", "--format=%s", log)[1])

    fill(1_100_000)
    within(15, lambda: (size() > 100_000, "still long"))
    listen = ["/usr/libexec/ipsec/whack", "--listen"]
    # Its own user may bind port 500 only with what the container has: NET_BIND_SERVICE.
    assert pod.execute("pluto", *listen)[0] == 0
    buffers = pod.execute("pluto", "ss", "-nuam", "sport", "500")[1]
    assert "tb16777216" in buffers, buffers
    within(5, lambda: ("listening for IKE" not in pod.log("pluto"), "not shown after the cut"))

    # Nobody reads and nobody cuts: what does not fit is lost, and pluto works on.
    pod.execute("pluto", "python3", "-c", READERS)
    fill(2_100_000)
    full = size()
    for _ in range(20):
        assert pod.execute("pluto", *listen, timeout_s=10)[0] == 0
    assert size() == full
    assert node.probe("pluto", "livenessProbe")[0] == 0


def start_pod(node: NodePod, tmp_path: Path) -> None:
    """Open vSwitch's database, pluto and the agent; returns when the agent has started."""
    pod = node.pod
    ovs = Mount(tmp_path / "host/openvswitch", "/run/openvswitch")
    ovs.source.mkdir()
    temporary = Mount(tmp_path, "/tmp")
    # Open vSwitch need not be root's.
    pod.start(
        Container(
            "ovsdb", ["/bin/sh", "-euc", OVSDB], capabilities=["CHOWN"], mounts=[ovs, temporary]
        )
    )
    within(30, lambda: ("there" not in pod.log("ovsdb"), pod.log("ovsdb")))
    pod.start(node.container("pluto"))
    pod.start(node.container("agent"))
    within(30, lambda: node.probe("pluto", "livenessProbe"))
    within(60, lambda: node.probe("agent", "startupProbe"))


def test_the_pod_becomes_ready_with_its_own_rights_and_keeps_state_when_it_ends(
    node: NodePod, tmp_path: Path
) -> None:
    pod = node.pod
    code, said = pod.run(node.container("guard"))
    assert code == 0, said
    assert (tmp_path / "host/guard/ovn-ipsec-guard.json").exists()

    start_pod(node, tmp_path)
    within(60, lambda: node.probe("agent", "readinessProbe"))
    within(5, lambda: node.probe("agent", "livenessProbe"))
    show = ["ovs-appctl", "-t", "ovs-monitor-ipsec", "tunnels/show"]
    assert "No tunnels configured with IPsec" in within(10, lambda: pod.execute("agent", *show))
    code, tables = pod.execute("agent", "nft", "list", "tables")
    assert code == 0, tables
    assert "table inet ovn_ipsec" in tables.splitlines()

    pod.execute("pluto", *node.hook("pluto"))
    assert pod.wait("pluto") == 12, pod.log("pluto")  # libreswan: ended, and left its state
    nss = tmp_path / "host/nss"
    assert (nss / "key4.db").exists()
    assert stat.S_IMODE(nss.stat().st_mode) == 0o700


TUNNEL = (
    "ovs-vsctl --db=unix:/run/openvswitch/db.sock --no-wait -- add-br br-int -- add-port br-int t1"
    " -- set interface t1 type=geneve options:psk=swordfish options:local_ip=10.0.0.1"
    " options:remote_ip=10.0.0.2"
)


def test_the_agent_knows_from_plutos_log_why_a_tunnel_is_not_up(
    node: NodePod, tmp_path: Path
) -> None:
    start_pod(node, tmp_path)
    # The whole network is this host's, and pluto listens on the one address.
    address = ["ip", "address", "add", "10.0.0.1/24", "dev", "lo"]
    assert node.pod.execute("pluto", *address) == (0, "")
    # Who may use Open vSwitch's socket is the agent.
    assert node.pod.execute("agent", *TUNNEL.split()) == (0, "")

    def cause() -> tuple[int, str]:
        _, said = node.pod.execute("agent", "ovn-ipsec", "status", "--json")
        # That nobody listens there only the log says.
        return '"peer-not-listening"' not in said, said

    status = json.loads(within(60, cause))
    assert status["node"]["log_problem"] is None
    assert "Connection refused" in node.pod.log("pluto")
