"""The node process: owns clock, wake-ups and log, and is the only room that sees both ends."""
