"""Keeps every OVN/OVS tunnel packet of a node encrypted.

The flow is one-directional: sources -> facts -> desired -> plan -> drivers -> status.
"""

__version__ = "0.1.0"
