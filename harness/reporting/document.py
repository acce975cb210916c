"""`--json`: one JSON document on stdout, and nothing else."""

import json
import math
import sys
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from typing import Any

import typer


def output_kept(as_json: bool) -> AbstractContextManager[Any]:
    """With `--json`, whatever a spec or a library prints goes to stderr: stdout is for the document."""
    return redirect_stdout(sys.stderr) if as_json else nullcontext()


def print_json(document: object) -> None:
    typer.echo(json.dumps(_finite(document), indent=2, default=str, allow_nan=False))


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value
