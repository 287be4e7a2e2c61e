"""Observes and changes pluto, NSS and nftables. May not decide what is wanted."""
