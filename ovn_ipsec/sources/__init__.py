"""Reads the world into facts. May not decide, plan, or change anything."""
