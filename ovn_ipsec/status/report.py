"""Renders a snapshot as the texts that users and scripts read. Pure."""
