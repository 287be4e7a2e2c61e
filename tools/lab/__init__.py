"""The lab: several nodes with a real kernel, real OVS, OVN and pluto, and a tap on their wire.

Nodes are small containers (network, mount, pid and uts namespaces) in one virtual machine, so
that the lab needs nothing from the kernel of the machine it runs on. ``tools.lab.machine`` builds
and boots that virtual machine, the other modules run inside it.
"""
