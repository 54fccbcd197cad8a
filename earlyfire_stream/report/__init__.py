"""Scores and run folders as people read them."""
