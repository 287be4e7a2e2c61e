"""Our files between libreswan's: taken over, left alone, healed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given
from hypothesis import strategies as st

from ovn_ipsec.drivers import libreswan_text as text
from ovn_ipsec.drivers.libreswan_files import LibreswanPaths, TunnelFiles, TunnelStore
from ovn_ipsec.drivers.libreswan_secrets import SecretsFile
from ovn_ipsec.model.conns import Protocol, PskAuth, Secret, TunnelConfig
from tests.unit.test_libreswan_text import GENERATED_CONF, GENERATED_SECRETS

CONFIG = TunnelConfig(Protocol.UDP, 6081, "10.0.0.1", "10.0.0.2", PskAuth(Secret("x")), ())


KEYS = "all.tunnels.secrets"


def keys(paths: LibreswanPaths) -> str:
    return (paths.tunnels_dir / KEYS).read_text()


def files(tunnel: str) -> TunnelFiles:
    return TunnelFiles(
        tunnel, text.render_tunnel(tunnel, 3, CONFIG), text.render_secret(tunnel, CONFIG)
    )


def stock(root: Path) -> LibreswanPaths:
    """Debian's own files."""
    directory = root / "etc/ipsec.d"
    directory.mkdir(parents=True)
    (root / "etc/ipsec.conf").write_text(f"config setup\n\ninclude {directory}/*.conf\n")
    (root / "etc/ipsec.secrets").write_text(f"include {directory}/*.secrets\n")
    return LibreswanPaths.from_flags(str(root))


def test_files_are_private_and_the_distributions_own_stay(tmp_path: Path) -> None:
    paths = stock(tmp_path)
    before = paths.root_conf.read_text(), paths.root_secrets.read_text()
    store = TunnelStore(paths)
    assert store.write([files("t"), files("../../x")]) == {}
    assert store.keys_unread
    store.keys_read()
    written = list(paths.tunnels_dir.iterdir())
    assert len(written) == 3
    assert {path.stat().st_mode & 0o777 for path in written} == {0o600}
    assert paths.tunnels_dir.stat().st_mode & 0o777 == 0o700
    assert (paths.root_conf.read_text(), paths.root_secrets.read_text()) == before
    assert store.warnings == ()
    assert store.write([files("t")]) == {}
    assert not store.keys_unread


def test_a_foreign_root_that_does_not_include_us_is_a_warning_and_stays(tmp_path: Path) -> None:
    paths = stock(tmp_path)
    paths.root_conf.write_text("config setup\nconn vpn\n\tleft=1.2.3.4\n")
    store = TunnelStore(paths)
    store.write([files("t")])
    (warning,) = store.warnings
    assert str(paths.root_conf) in warning and "include" in warning
    assert "conn vpn" in paths.root_conf.read_text()


def test_the_originals_root_is_taken_over_only_when_its_last_tunnel_is_ours(
    tmp_path: Path,
) -> None:
    paths = stock(tmp_path)
    paths.root_conf.write_text(GENERATED_CONF)
    paths.root_secrets.write_text(GENERATED_SECRETS)
    store = TunnelStore(paths)
    assert set(store.installed()) == {"tun-b", "g-1"}
    store.write([files("tun-b")])
    store.settle()
    assert paths.root_conf.read_text() == GENERATED_CONF
    store.remove("g-1")
    store.settle()
    assert "conn" not in paths.root_conf.read_text().replace("config", "")
    assert text.included_patterns(paths.root_conf.read_text()) == (
        str(paths.index_conf.parent / "*.conf"),
    )
    assert text.included_patterns(paths.root_secrets.read_text()) == (
        str(paths.index_secrets.parent / "*.secrets"),
    )
    assert store.warnings == ()
    assert set(TunnelStore(paths).installed()) == {"tun-b"}


def test_a_conf_file_named_by_flag_is_the_index_unless_it_is_foreign(tmp_path: Path) -> None:
    own = LibreswanPaths.from_flags(str(tmp_path / "own"), ipsec_conf="/etc/own.conf")
    (tmp_path / "own/etc").mkdir(parents=True)
    TunnelStore(own).write([files("t")])
    assert "ovn-ipsec/*.conf" in own.index_conf.read_text()

    foreign = LibreswanPaths.from_flags(str(tmp_path / "f"), ipsec_conf="/etc/ipsec.conf")
    stock(tmp_path / "f")
    before = foreign.root_conf.read_text()
    store = TunnelStore(foreign)
    store.write([files("t")])
    assert foreign.root_conf.read_text() == before
    assert (foreign.tunnels_dir.parent / "ovn-ipsec.conf").exists()
    assert store.warnings == ()


def test_damaged_and_half_written_files_are_absent_and_reported(tmp_path: Path) -> None:
    paths = stock(tmp_path)
    TunnelStore(paths).write([files("a"), files("b")])
    (paths.tunnels_dir / "a.conf").write_text("")
    (paths.tunnels_dir / ".zz.new").write_text("half")
    again = TunnelStore(paths)
    assert set(again.installed()) == {"b"}
    assert any("a.conf" in warning for warning in again.warnings)
    assert not (paths.tunnels_dir / ".zz.new").exists()


def test_removal_that_is_cut_short_leaves_no_key_behind(tmp_path: Path) -> None:
    paths = stock(tmp_path)
    store = TunnelStore(paths)
    store.write([files("t"), files("u")])
    store.keys_read()
    store.remove("t")
    assert "# tunnel t\n" in keys(paths)
    restarted = TunnelStore(paths)
    assert list(restarted.installed()) == ["u"]
    assert "# tunnel t\n" not in keys(paths)
    assert restarted.keys_unread
    restarted.remove("u")
    restarted.settle_keys()
    restarted.keys_read()
    assert list(paths.tunnels_dir.iterdir()) == []


def test_keys_that_pluto_was_not_told_of_are_so_for_the_next_agent(tmp_path: Path) -> None:
    paths = stock(tmp_path)
    TunnelStore(paths).write([files("t")])
    restarted = TunnelStore(paths)
    restarted.write([files("t")])
    assert restarted.keys_unread
    restarted.keys_read()
    assert not TunnelStore(paths).keys_unread


def test_keys_that_cannot_be_written_leave_tunnels_as_they_were(tmp_path: Path) -> None:
    paths = stock(tmp_path)
    store = TunnelStore(paths)
    store.write([files("t"), files("u")])
    before = {path.name: path.read_text() for path in paths.tunnels_dir.iterdir()}
    in_the_way = paths.tunnels_dir / f".{KEYS}.new"
    in_the_way.mkdir()
    assert "cannot be written" in store.write([files("v")])["v"]
    in_the_way.rmdir()
    assert {path.name: path.read_text() for path in paths.tunnels_dir.iterdir()} == before
    in_the_way.mkdir()
    store.remove("t")
    store.settle_keys()
    assert any("still on disk" in warning for warning in store.warnings)
    in_the_way.rmdir()
    store.settle_keys()
    assert store.warnings == ()
    assert "# tunnel t\n" not in keys(paths)


def test_a_tunnel_whose_key_is_lost_is_known_by_that(tmp_path: Path) -> None:
    paths = stock(tmp_path)
    TunnelStore(paths).write([files("t"), files("u")])
    lines = keys(paths).splitlines(keepends=True)
    (paths.tunnels_dir / KEYS).write_text("".join(lines[:3]))
    again = TunnelStore(paths)
    assert {name: record.keyless for name, record in again.installed().items()} == {
        "t": False,
        "u": True,
    }
    assert again.write([files("u")]) == {}
    assert not again.installed()["u"].keyless


def test_keys_in_a_file_for_each_tunnel_are_taken_over(tmp_path: Path) -> None:
    paths = stock(tmp_path)
    TunnelStore(paths).write([files("t"), files("u")])
    line = text.render_secret("t", CONFIG)
    (paths.tunnels_dir / KEYS).unlink()
    for name in ("t", "u"):
        (paths.tunnels_dir / f"{name}.secrets").write_text(f"{text.HEADER}\n{line}\n")
    (paths.tunnels_dir / "odd.secrets").mkdir()
    store = TunnelStore(paths)
    assert set(store.installed()) == {"t", "u"}
    (paths.tunnels_dir / "odd.secrets").rmdir()
    assert store.write([files("v")]) == {}
    assert [path.name for path in paths.tunnels_dir.glob("*.secrets")] == [KEYS]
    for name in ("t", "u", "v"):
        assert f"# tunnel {name}\n{line}\n" in keys(paths)


@given(st.dictionaries(st.text(min_size=1, max_size=60), st.text(min_size=1, max_size=30)))
def test_keys_of_any_tunnels_are_read_back_as_they_were_written(
    psks: dict[str, str],
) -> None:
    with TemporaryDirectory() as directory:
        lines = {
            text.file_stem(name): text.render_secret(
                name, replace(CONFIG, auth=PskAuth(Secret(psk)))
            )
            for name, psk in psks.items()
        }
        file = SecretsFile(Path(directory))
        file.change(lines)
        assert file.unread == bool(lines)
        file.read_by_pluto()
        again = SecretsFile(Path(directory))
        assert again.stems() == lines.keys()
        again.change(dict(lines))
        assert not again.unread
