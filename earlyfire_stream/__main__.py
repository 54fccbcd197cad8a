"""`python -m earlyfire_stream` is the `earlyfire` command."""

from earlyfire_stream.cli import main

if __name__ == "__main__":
    main()
