"""Pixels: video files, image sequences, stills, live streams and synthetic scenes.

`open.open_source` opens what a scenario's camera names and `stream.open_live` a live one; `base`
says what each of them can do.
"""
