"""Builds and boots the virtual machine of the lab. Runs on the developer's machine or in CI.

Needs root (mmdebstrap and chroot), Debian's qemu-system-x86 and mmdebstrap, and nothing else:
Open vSwitch, OVN and libreswan live in the machine's root file system only.
"""
