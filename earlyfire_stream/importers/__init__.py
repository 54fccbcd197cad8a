"""Other people's recordings as scenarios: looks them over, writes the file, copies nothing."""

from earlyfire_stream.importers.inspect import Look, look
from earlyfire_stream.importers.write import Imported, import_dataset

__all__ = ["Imported", "Look", "import_dataset", "look"]
