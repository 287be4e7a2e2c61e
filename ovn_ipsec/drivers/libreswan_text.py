"""libreswan's texts: writes its configuration, reads its status. Pure."""
