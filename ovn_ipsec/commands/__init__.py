"""One module per command of ``ovn-ipsec``: ``run(argv)`` does it and returns the exit code.

The composition roots: each builds what its command needs out of the rooms below, and prints.
"""
