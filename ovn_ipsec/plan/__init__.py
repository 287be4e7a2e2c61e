"""Wanted state, observed state, memory and clock in; steps out. Pure: no I/O, no clock, no facts.

A plan is complete before its first side effect, and planning again right after it was applied
gives an empty plan. Order: guard, credentials, drops, new connections, replacements,
initiations, credential deletes. What could not be observed is left alone.

``planner`` decides for the whole node (``plan``) or for rows that changed (``plan_changes``),
``tunnel`` for one tunnel, ``health`` judges what pluto and the kernel say of it, ``memory`` is
what has to be remembered from plan to plan.
"""

from ovn_ipsec.plan.memory import Memory, addresses_changed, remember
from ovn_ipsec.plan.planner import Plan, guard_is_due, plan, plan_changes

__all__ = [
    "Memory",
    "Plan",
    "addresses_changed",
    "guard_is_due",
    "plan",
    "plan_changes",
    "remember",
]
