"""The `earlyfire` command, also as `python -m earlyfire_stream`."""

import sys


def main() -> None:
    """Run the command. Importing it takes a second or more, in which Ctrl-C may come as well."""
    try:
        from earlyfire_stream.cli import main as command

        command()
    except KeyboardInterrupt:
        print("earlyfire: interrupted: nothing was played", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
