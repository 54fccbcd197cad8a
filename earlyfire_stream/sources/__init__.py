"""Pixels: video files, image sequences, stills, live streams and synthetic scenes."""
