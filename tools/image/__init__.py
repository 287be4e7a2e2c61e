"""Builds the container image without a registry or daemon: see build.py."""
