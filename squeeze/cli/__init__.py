"""The command line: read arguments, call one function, print.

One file per command, imported when it is called, so that ``squeeze --help`` loads nothing heavy.
"""

from squeeze.cli.group import main

__all__ = ["main"]
