"""The command line `bench`: one file per group of commands."""

from bench.cli.app import cli, guarded, main

__all__ = ["cli", "guarded", "main"]
