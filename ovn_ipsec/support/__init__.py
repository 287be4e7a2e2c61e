"""The support bundle: what a helper needs to see of a node, and no secret of it."""
