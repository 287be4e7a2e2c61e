"""Tools for people who work on the project. Nothing that is shipped imports them."""
