"""Runs held against the first of them: what differs, how surely, and which fires moved.

Only runs over the same frames are compared, view by view (a fire on a camera) and seed by seed.
Every difference is *other − first*. Nothing here reads a file. In the order of the work:
`comparable` refuses, `measured` takes each side apart by fire, `figures` holds them against each
other by the formulae of `values`, `sureness` says how sure that is, `moved` which fires moved,
`result` is all of it; `stated` tells which settings differ, `tolerance` what is too much.
"""

from earlyfire_stream.scoring.compare.comparable import Doubt, doubts
from earlyfire_stream.scoring.compare.figures import Figure, Rates
from earlyfire_stream.scoring.compare.measured import Measured
from earlyfire_stream.scoring.compare.moved import Detected, Moved
from earlyfire_stream.scoring.compare.result import Against, Comparison, compare
from earlyfire_stream.scoring.compare.sides import Side, label
from earlyfire_stream.scoring.compare.sureness import holm
from earlyfire_stream.scoring.compare.tolerance import IN_SECONDS, Worse, parse_tolerances, worse

__all__ = [
    "IN_SECONDS",
    "Against",
    "Comparison",
    "Detected",
    "Doubt",
    "Figure",
    "Measured",
    "Moved",
    "Rates",
    "Side",
    "Worse",
    "compare",
    "doubts",
    "holm",
    "label",
    "parse_tolerances",
    "worse",
]
