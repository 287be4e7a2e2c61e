"""How our agent, the original monitor and no monitor at all compare on many tunnels.

``python -m tools.lab run python -m tools.bench.tunnels``: one hub with N peers, all in one
machine and one boot, one contender after the other. The emulated core is about ten times slower
than this machine's, so ratios count, not seconds.
"""
