"""Tells the state from the last snapshot. Never runs a program, never waits for a tick."""
