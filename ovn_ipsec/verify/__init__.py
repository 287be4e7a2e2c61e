"""Proof on this node, independent of what the agent believes: wire, guard, kernel."""
