"""The files that the cluster view asks other nodes with, from a real ovsdb-server."""

from __future__ import annotations

from pathlib import Path

import pytest

from ovn_ipsec.errors import SourceError
from ovn_ipsec.web.collect import named_keys
from ovn_ipsec.web.settings import NodeKeys
from tests.contract.ovsdb_server import OvsdbServer

pytestmark = pytest.mark.contract


def test_database_names_the_files_or_what_is_missing_is_told(tmp_path: Path) -> None:
    server = OvsdbServer(tmp_path)
    server.start()
    try:
        with pytest.raises(SourceError, match="lacks private_key, certificate, ca_cert"):
            named_keys(server.remote)
        server.vsctl("init")
        server.vsctl("set", "Open_vSwitch", ".", "other_config:certificate=/c")
        with pytest.raises(SourceError, match="lacks private_key, ca_cert"):
            named_keys(server.remote)
        named = ("other_config:private_key=/k", "other_config:ca_cert=/r")
        server.vsctl("set", "Open_vSwitch", ".", *named)
        assert named_keys(server.remote) == NodeKeys(Path("/k"), Path("/c"), Path("/r"))
    finally:
        server.kill()
