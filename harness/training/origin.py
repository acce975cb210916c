"""What a run begins with, as the user named it. Known to the driver too: nothing here needs torch."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Origin:
    """A checkpoint file to begin with."""

    path: Path
    epochs: int | None = None  # how many are done, where the user says so
    without: tuple[str, ...] = ()  # names of weights, or "optimizer" or "scheduler", that are left out

    def digest(self) -> str:
        """16 hexadecimal digits that name the file's content and what is taken of it."""
        content = hashlib.sha256(self.path.read_bytes())
        if self.epochs is not None or self.without:
            content.update(json.dumps([self.epochs, sorted(self.without)]).encode())
        return content.hexdigest()[:16]
