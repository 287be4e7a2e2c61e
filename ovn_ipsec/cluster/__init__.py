"""Switches IPsec on and off in a whole OVN cluster. Knows nodes by what they report alone."""
