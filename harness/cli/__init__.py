"""The command line: each command is one function call."""

from harness.cli.app import main

__all__ = ["main"]
