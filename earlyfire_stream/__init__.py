"""How many seconds after the smoke appears will the alarm come?

Replays wildfires as a fleet of timed cameras over MQTT, watches them with a
vision-language model under a token budget, and scores how early, how surely and
at what cost the alarm came.
"""

__version__ = "0.1.0"
