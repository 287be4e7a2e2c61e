"""What the cluster view served in the lab (tests/system/test_web.py), in a browser."""
