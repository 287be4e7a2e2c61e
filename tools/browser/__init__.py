"""Headless Chromium, for tests of pages and for their pictures."""
