"""`python -m earlyfire_stream` is the `earlyfire` command."""

import sys

if __name__ == "__main__":
    try:
        # Importing takes a second or more, in which Ctrl-C may come as well.
        from earlyfire_stream.cli import main

        main()
    except KeyboardInterrupt:
        print("earlyfire: interrupted: nothing was played", file=sys.stderr)
        sys.exit(130)
