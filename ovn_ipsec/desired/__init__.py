"""Facts in, wanted state out. Pure: no I/O, no clock, no logging."""
