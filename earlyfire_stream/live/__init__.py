"""Watching a run while it goes on: the terminal's screen, or plain lines where there is none."""
