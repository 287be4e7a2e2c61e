"""The planner: wanted state, observed state, memory and clock in; steps out. Pure."""
