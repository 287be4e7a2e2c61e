"""Install-time configuration: a cluster network manifest becomes settings of our manifests.

``document`` reads YAML with its lines, ``network`` judges it, ``mtu`` does the arithmetic,
``manifests`` makes the texts; all pure. ``command`` reads and writes the files. Knows nothing of
the agent, and nothing but the command line knows it; only ``document`` imports the YAML library.
"""
