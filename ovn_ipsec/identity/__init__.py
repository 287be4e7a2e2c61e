"""The node's identity: its key, the certificate over it, and the bundle of roots it trusts.

A process of its own (``ovn-ipsec enroll``) with few rights: it reads and writes Open vSwitch's
settings and one directory. It may not know tunnels, drivers, plans or the status; the agent
learns of a new identity from OVSDB alone, as with any other tool that makes certificates.
"""
