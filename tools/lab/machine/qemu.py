"""Boots the lab's virtual machine and stays with it until it is off."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.lab.machine.cache import cache_dir, say
from tools.lab.machine.initramfs import build_initramfs
from tools.lab.machine.rootfs import Images

_QEMU = "qemu-system-x86_64"
_PROBE_S = 15.0
_READ_BYTES = 1 << 20

# Everything here makes an emulated machine faster; none of it concerns what the lab observes.
# The kernel would choose HPET as its clock, which costs an exit for every look at it.
_KERNEL_OPTIONS = (
    "console=ttyS0 panic=-1 quiet loglevel=4 mitigations=off nopti audit=0 nowatchdog nokaslr "
    "norandmaps lsm= apparmor=0 init_on_alloc=0 kfence.sample_interval=0 "
    "randomize_kstack_offset=off cgroup_disable=memory transparent_hugepage=never "
    "rcupdate.rcu_expedited=1 tsc=reliable clocksource=tsc no_timer_check"
)


# An emulated machine's clock counts instructions, a nanosecond each: what else this machine does,
# or how slow it is, changes nothing in the guest. While the guest sleeps its clock jumps to the
# next timer, or, for a person at the prompt, runs with ours (qemu(1), -icount).
_CLOCK = "shift=0,sleep=off"
_INTERACTIVE_CLOCK = "shift=0,sleep=on"


@dataclass(frozen=True, slots=True)
class Size:
    """How big the machine is.

    One emulated CPU is faster than two: a loop of fork and exec took 1 s instead of 4 s, since
    two must stop each other for every change of a page table. The other core of the real machine
    is better used by a second virtual machine.
    """

    cpus: int = 1
    memory_mib: int = 4096


def accelerator(images: Images) -> str:
    """`kvm` where a machine really boots with it, else `tcg`; remembered until the next reboot.

    /dev/kvm may exist and yet hang an unmodified kernel, so only a boot counts.
    """
    if not Path("/dev/kvm").exists():
        return "tcg"
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    known = cache_dir() / f"accelerator-{boot_id}"
    if known.exists():
        return known.read_text()
    with tempfile.TemporaryDirectory(prefix="ovn-ipsec-probe-") as scratch:
        # Without its disks the machine reports a failed boot and powers off: that is enough.
        initramfs = Path(scratch) / "initramfs"
        initramfs.write_bytes(build_initramfs(images.tree))
        argv = [*_base_argv("kvm", Size(1, 512)), "-kernel", str(images.kernel)]
        argv += ["-initrd", str(initramfs), "-append", "console=ttyS0 panic=-1"]
        argv += ["-serial", "stdio"]
        try:
            done = subprocess.run(
                argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PROBE_S, check=False
            )
            works = b"lab: boot failed: no root image" in done.stdout
        except subprocess.TimeoutExpired:
            works = False
    found = "kvm" if works else "tcg"
    say(f"hardware virtualisation {'works' if works else 'does not work here: emulating'}")
    known.write_text(found)
    return found


@dataclass(frozen=True, slots=True)
class Boot:
    """One start of the machine."""

    images: Images
    archive: Path
    """The project as a tar file."""
    results: Path
    """A directory that the guest writes to; it runs ``command`` there."""
    timeout_s: float
    """After that the machine is killed; what it wrote to `results` stays."""
    size: Size = Size()
    prefix: str = ""
    """Put before each line of output, to tell machines apart."""
    node_image: Path | None = None
    """The container image as a disk (node_image.py), at /opt/image."""


def boot(order: Boot, *, interactive: bool = False) -> int | None:
    """Run the command in the guest; its exit status, or None if it left none.

    What it prints appears at once, and in console.log; the kernel's own messages go to
    kernel.log.
    """
    status = order.results / "exit-status"
    status.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="ovn-ipsec-lab-") as scratch:
        initramfs = Path(scratch) / "initramfs"
        initramfs.write_bytes(build_initramfs(order.images.tree))
        accel = accelerator(order.images)
        argv = _argv(order, initramfs, accel, interactive=interactive)
        for disk in _disks(order):
            _keep_in_memory(disk)
        if interactive:
            _run_interactive(argv)
        else:
            _run_logged(argv, order)
    return int(status.read_text()) if status.exists() else None


def _base_argv(accel: str, size: Size) -> list[str]:
    accel_option = "kvm" if accel == "kvm" else "tcg,thread=single,tb-size=512"
    return [
        *(_QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-machine", "q35", "-accel", accel_option, "-cpu", "max"),
        *("-smp", str(size.cpus), "-m", str(size.memory_mib)),
    ]


def _argv(order: Boot, initramfs: Path, accel: str, *, interactive: bool) -> list[str]:
    images = order.images
    argv = [*_base_argv(accel, order.size), "-kernel", str(images.kernel)]
    if accel != "kvm":
        argv += ["-icount", _INTERACTIVE_CLOCK if interactive else _CLOCK]
    argv += ["-initrd", str(initramfs), "-append", _KERNEL_OPTIONS]
    argv += ["-serial", f"file:{order.results / 'kernel.log'}"]
    argv += ["-device", "virtio-serial-pci", "-chardev", "stdio,id=console,signal=off"]
    argv += ["-device", "virtconsole,chardev=console"]
    for image in _disks(order):
        argv += ["-drive", f"file={image},if=virtio,format=raw,readonly=on"]
    share = f"local,id=results,path={order.results},security_model=none"
    argv += ["-fsdev", share, "-device", "virtio-9p-pci,fsdev=results,mount_tag=results"]
    return argv


def _disks(order: Boot) -> list[Path]:
    disks = [order.images.root, order.images.python, order.archive]
    return disks if order.node_image is None else [*disks, order.node_image]


def _keep_in_memory(disk: Path) -> None:
    """Read it once, so that the guest's reads are answered from this machine's page cache.

    While the guest waits for a disk its clock jumps from timer to timer: one that has to be read
    from a real disk took a minute of the guest's, in which everything there timed out.
    """
    with disk.open("rb", buffering=0) as file:
        while file.read(_READ_BYTES):
            pass


def _run_interactive(argv: Sequence[str]) -> None:
    stty = shutil.which("stty")
    saved = subprocess.check_output([stty, "-g"], text=True).strip() if stty else ""
    try:
        if stty:
            subprocess.check_call([stty, "raw", "-echo"])
        subprocess.check_call(argv)
    finally:
        if stty:
            subprocess.check_call([stty, saved])


_running: set[subprocess.Popen[bytes]] = set()


def end_machines_when_terminated() -> None:
    """From now on SIGTERM ends every machine, and this process."""
    # Without a handler Python would not unwind.
    signal.signal(signal.SIGTERM, _end)


def _end(*_: object) -> None:
    for machine in list(_running):
        machine.kill()
    sys.exit(128 + signal.SIGTERM)


def _run_logged(argv: Sequence[str], order: Boot) -> None:
    machine = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0
    )
    timer = threading.Timer(order.timeout_s, _give_up, (machine, order.timeout_s))
    timer.start()
    _running.add(machine)
    try:
        assert machine.stdout is not None
        with (order.results / "console.log").open("wb") as log:
            pending = b""
            while chunk := os.read(machine.stdout.fileno(), 65536):
                log.write(chunk)
                log.flush()
                pending = _show(pending + chunk, order.prefix)
            _show(pending + b"\n" if pending else b"", order.prefix)
    finally:
        timer.cancel()
        _running.discard(machine)
        machine.kill()
        machine.wait()


def _show(output: bytes, prefix: str) -> bytes:
    """Print what is there; with a prefix, whole lines only. Returns what is held back."""
    held = b""
    if prefix:
        whole, newline, held = output.rpartition(b"\n")
        lines = (whole + newline).splitlines(keepends=True)
        output = b"".join(prefix.encode() + line for line in lines)
    sys.stdout.buffer.write(output)
    sys.stdout.buffer.flush()
    return held


def _give_up(machine: subprocess.Popen[bytes], timeout_s: float) -> None:
    say(f"the machine is not done after {timeout_s:.0f} s: killing it")
    machine.kill()
