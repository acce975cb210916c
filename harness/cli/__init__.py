"""The command line: arguments to one call each."""

from harness.cli.app import main

__all__ = ["main"]
