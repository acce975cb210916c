"""A written report, for Python and notebooks."""

import base64
from dataclasses import dataclass
from html import escape
from pathlib import Path


@dataclass(frozen=True, kw_only=True, repr=False)
class Report:
    """One HTML page that works without a network, and its pictures as PNG files.

    `compare_url` is the address of MLflow's page that compares the runs; `needs_ui` says that `ui` must run for it.
    """

    page: Path
    pictures: tuple[Path, ...]
    compare_url: str
    needs_ui: bool

    def __repr__(self) -> str:
        folder = f", {len(self.pictures)} pictures in {self.pictures[0].parent}" if self.pictures else ""
        return f"report: {self.page}{folder}"

    def _repr_html_(self) -> str:
        contents = [base64.b64encode(picture.read_bytes()).decode() for picture in self.pictures if picture.is_file()]
        drawn = "".join(f'<img src="data:image/png;base64,{content}" style="max-width: 100%">' for content in contents)
        return f"<p>{escape(repr(self))}</p>{drawn}"
