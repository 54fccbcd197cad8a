"""Hours of load on an engine: what it serves, what it drops, and whether anything grows."""
