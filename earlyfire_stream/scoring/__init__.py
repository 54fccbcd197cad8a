"""A run's log becomes its scores; see `early_fire` for the headline and `accuracy` for v1."""

from earlyfire_stream.scoring.accuracy import frame_score_v1
from earlyfire_stream.scoring.early_fire import Score, score

__all__ = ["Score", "frame_score_v1", "score"]
