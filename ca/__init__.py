"""The certificate authority: decides which node gets which certificate, signs, remembers.

It imports the standard library, ``cryptography`` and itself, never ``ovn_ipsec``: an authority
runs on machines that have no tunnel, and a node must not carry code that signs.
"""
