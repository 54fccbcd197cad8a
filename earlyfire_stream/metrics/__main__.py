"""`python -m earlyfire_stream.metrics` prints the table of deploy/METRICS.md."""

from earlyfire_stream.metrics.families import table

print(table(), end="")
