"""Boots the lab's virtual machine and stays with it until it is off."""

from __future__ import annotations

import shutil
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

# Everything here makes an emulated machine faster; none of it concerns what the lab observes.
# The kernel would choose HPET as its clock, which costs an exit for every look at it.
_KERNEL_OPTIONS = (
    "console=ttyS0 panic=-1 quiet loglevel=4 mitigations=off nopti audit=0 nowatchdog nokaslr "
    "norandmaps lsm= apparmor=0 init_on_alloc=0 kfence.sample_interval=0 "
    "randomize_kstack_offset=off cgroup_disable=memory transparent_hugepage=never "
    "rcupdate.rcu_expedited=1 tsc=reliable clocksource=tsc no_timer_check"
)


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


def boot(
    images: Images,
    project_archive: Path,
    results: Path,
    *,
    timeout_s: float,
    size: Size = Size(),
    interactive: bool = False,
) -> int | None:
    """Run `results`/command in the guest; its exit status, or None if it left none.

    What the command prints appears at once; the kernel's own messages go to
    `results`/kernel.log. After `timeout_s` the machine is killed.
    """
    status = results / "exit-status"
    status.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="ovn-ipsec-lab-") as scratch:
        initramfs = Path(scratch) / "initramfs"
        initramfs.write_bytes(build_initramfs(images.tree))
        argv = _argv(images, initramfs, project_archive, results, accelerator(images), size)
        if interactive:
            _run_interactive(argv)
        else:
            _run_logged(argv, results / "console.log", timeout_s)
    return int(status.read_text()) if status.exists() else None


def _base_argv(accel: str, size: Size) -> list[str]:
    accel_option = "kvm" if accel == "kvm" else "tcg,thread=multi,tb-size=512"
    return [
        *(_QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-machine", "q35", "-accel", accel_option, "-cpu", "max"),
        *("-smp", str(size.cpus), "-m", str(size.memory_mib)),
    ]


def _argv(
    images: Images, initramfs: Path, archive: Path, results: Path, accel: str, size: Size
) -> list[str]:
    argv = [*_base_argv(accel, size), "-kernel", str(images.kernel), "-initrd", str(initramfs)]
    argv += ["-append", _KERNEL_OPTIONS, "-serial", f"file:{results / 'kernel.log'}"]
    argv += ["-device", "virtio-serial-pci", "-chardev", "stdio,id=console,signal=off"]
    argv += ["-device", "virtconsole,chardev=console"]
    for image in (images.root, images.python, archive):
        argv += ["-drive", f"file={image},if=virtio,format=raw,readonly=on"]
    share = f"local,id=results,path={results},security_model=none"
    argv += ["-fsdev", share, "-device", "virtio-9p-pci,fsdev=results,mount_tag=results"]
    return argv


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


def _run_logged(argv: Sequence[str], log: Path, timeout_s: float) -> None:
    machine = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    timer = threading.Timer(timeout_s, _give_up, (machine, timeout_s))
    timer.start()
    try:
        assert machine.stdout is not None
        with log.open("wb") as copy:
            while chunk := machine.stdout.read1(65536):
                text = chunk.replace(b"\r\n", b"\n")
                copy.write(text)
                copy.flush()
                sys.stdout.buffer.write(text)
                sys.stdout.buffer.flush()
    finally:
        timer.cancel()
        machine.kill()
        machine.wait()


def _give_up(machine: subprocess.Popen[bytes], timeout_s: float) -> None:
    say(f"the machine is not done after {timeout_s:.0f} s: killing it")
    machine.kill()
