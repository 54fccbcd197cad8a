"""Stand-ins for the world outside, with scripted input."""
