"""How the lab's machine is put together: recipes, the initial RAM file system, reports."""

from __future__ import annotations

import stat
import struct
from pathlib import Path

import pytest

from tools.lab.machine.initramfs import Entry, load_order, render_cpio
from tools.lab.machine.kernel import compressed_payload
from tools.lab.machine.recipe import python_recipe, root_recipe
from tools.lab.machine.report import empty_tiers, read_junit
from tools.lab.ovs import rx_packets

SETUP_CFG = """
[options]
install_requires =
    ovs >= 3.1
    cryptography >= 41
[options.extras_require]
dev =
    # a comment
    pytest >= 8
    ruff == 0.1
"""


def test_python_recipe_takes_requirements_and_test_tools_alone() -> None:
    recipe = python_recipe("root", SETUP_CFG)
    assert recipe.requirements == ("cryptography >= 41", "hypothesis", "ovs >= 3.1", "pytest >= 8")


def test_digests_follow_content(tmp_path: Path) -> None:
    script = tmp_path / "finish.sh"
    script.write_text("true")
    first = root_recipe("bookworm", [script])
    assert first.digest() == root_recipe("bookworm", [script]).digest()
    assert first.digest() != root_recipe("trixie", [script]).digest()
    script.write_text("false")
    assert first.digest() != root_recipe("bookworm", [script]).digest()
    assert python_recipe("a", SETUP_CFG).digest() != python_recipe("b", SETUP_CFG).digest()


def test_unknown_suite_is_named() -> None:
    with pytest.raises(ValueError, match="'sid'.*bookworm, trixie"):
        root_recipe("sid", [])


def test_modules_load_after_what_they_need() -> None:
    modules_dep = (
        "kernel/fs/ext4/ext4.ko: kernel/lib/crc16.ko kernel/fs/jbd2/jbd2.ko\n"
        "kernel/fs/jbd2/jbd2.ko:\n"
        "kernel/lib/crc16.ko:\n"
        "kernel/drivers/block/virtio-blk.ko:\n"
    )
    assert load_order(modules_dep, ["virtio_blk", "ext4", "built_in"]) == [
        "kernel/drivers/block/virtio-blk.ko",
        "kernel/fs/jbd2/jbd2.ko",
        "kernel/lib/crc16.ko",
        "kernel/fs/ext4/ext4.ko",
    ]


def test_cpio_entries_are_aligned_and_closed() -> None:
    archive = render_cpio([Entry("init", stat.S_IFREG | 0o755, b"#!/bin/sh\n")])
    assert len(archive) % 4 == 0
    assert archive[:6] == b"070701"
    fields = [int(archive[6 + 8 * n : 14 + 8 * n], 16) for n in range(13)]
    assert fields[1] == stat.S_IFREG | 0o755
    assert fields[6] == len(b"#!/bin/sh\n")
    assert fields[11] == len("init\0")
    assert archive[110:115] == b"init\0"
    assert archive[116:126] == b"#!/bin/sh\n"
    assert b"TRAILER!!!\0" in archive[126:]


def test_payload_of_a_kernel_is_found_by_its_header() -> None:
    header = bytearray(2 * 512)
    header[0x1F1] = 1
    struct.pack_into("<II", header, 0x248, 16, 10 + 4)
    bzimage = bytes(header) + b"s" * 16 + b"compressed" + b"size" + b"rest"
    assert compressed_payload(bzimage) == b"compressed"


JUNIT = """<testsuites><testsuite>
<testcase classname="tests.system.test_lab" name="a"/>
<testcase classname="tests.system.test_lab.TestClass" name="b"><failure message="no"/></testcase>
<testcase classname="tests.contract.test_nss" name="c"><skipped/></testcase>
</testsuite></testsuites>"""


def test_tally_adds_up_and_sees_empty_tiers(tmp_path: Path) -> None:
    report = tmp_path / "junit.xml"
    report.write_text(JUNIT)
    tally = read_junit([report, report])
    assert tally.line() == "2 passed, 2 failed, 2 skipped"
    paths = ["tests/contract", "tests/system/test_lab.py", "-m", "not slow"]
    assert empty_tiers(tally, paths) == ["tests/contract"]


def test_missing_report_is_a_failure(tmp_path: Path) -> None:
    assert read_junit([tmp_path / "junit.xml"]).line() == "0 passed, 1 failed, 0 skipped"


def test_port_counter_is_read() -> None:
    dump = (
        "OFPST_PORT reply (xid=0x4): 1 ports\n"
        '  port  "tun-a": rx pkts=15, bytes=1630, drop=?, errs=?, frame=?, over=?, crc=?\n'
        "           tx pkts=1, bytes=90, drop=?, errs=?, coll=?\n"
    )
    assert rx_packets(dump) == 15
