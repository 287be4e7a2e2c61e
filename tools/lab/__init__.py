"""The lab: several nodes with a real kernel, real OVS, OVN and pluto, and a tap on their wire.

Nodes are small containers (network, mount, pid and uts namespaces) in one virtual machine, so
that the lab needs nothing from the kernel of the machine it runs on. ``tools.lab.machine`` builds
and boots that virtual machine (``python3 -m tools.lab --help``); the other modules run inside it,
beginning with ``tools.lab.lab.Lab``.

A machine whose own kernel has ESP, Geneve and Open vSwitch, and whose packages are those of a lab
root, can be the lab itself. The nodes hide its /etc, /run and state directories from each other
and from the host::

    LAB_DIRECTORY=/run/lab LAB_RESULTS_DIRECTORY=/tmp/results python3 -m pytest tests/system
"""
