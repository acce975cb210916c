"""What results look like in a notebook: small HTML tables."""

import math
import sys
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any


def html_table(headings: Sequence[str], rows: Iterable[Sequence[Any]], *, note: str = "") -> str:
    """A table, under a line of text.

    >>> html_table(["lr"], [[0.1]], note="one run")
    '<p>one run</p><table><tr><th>lr</th></tr><tr><td>0.1</td></tr></table>'
    """
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = "".join(f"<tr>{''.join(f'<td>{escape(shown(cell))}</td>' for cell in row)}</tr>" for row in rows)
    said = "".join(f"<p>{escape(line)}</p>" for line in note.split("\n") if line)
    return f"{said}<table><tr>{head}</tr>{body}</table>" if headings else said


def shown(value: Any) -> str:
    """A value in a few characters.

    >>> shown(0.123456789), shown(None), shown(12)
    ('0.123457', '', '12')
    """
    if isinstance(value, float):
        return "nan" if math.isnan(value) else f"{value:.6g}"
    return "" if value is None else str(value)


def is_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    module = sys.modules.get("IPython")  # never loaded for the question
    shell = None if module is None else module.get_ipython()
    return getattr(shell, "kernel", None) is not None
