"""Amounts as people write them: durations, sizes, numbers of jobs, places."""

import re
from pathlib import Path

from harness.errors import HarnessError

MOST_SECONDS, MOST_BYTES = 10 * 365 * 86400, 10**18


def parse_duration(value: str | float) -> float:
    """Seconds.

    >>> parse_duration("30m"), parse_duration("1h30m"), parse_duration("45"), parse_duration(90)
    (1800.0, 5400.0, 45.0, 90.0)
    """
    matched = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s?)?", str(value).strip())
    if not matched or not any(matched.groups()):
        raise HarnessError(f"--timeout {value}: write it as 45s, 30m or 1h30m.")
    hours, minutes, seconds = (float(part or 0) for part in matched.groups())
    whole = hours * 3600 + minutes * 60 + seconds
    if whole > MOST_SECONDS:
        raise HarnessError(f"--timeout {value}: that is longer than ten years.")
    return whole


def parse_size(value: str | int) -> int:
    """Bytes.

    >>> parse_size("5GB"), parse_size("300 MB"), parse_size(10_000)
    (5000000000, 300000000, 10000)
    """
    units = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
    matched = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", str(value).strip().upper())
    if not matched:
        raise HarnessError(f"--path-budget {value}: write it as 500MB or 5GB.")
    size = float(matched[1]) * units[matched[2]]
    if size > MOST_BYTES:
        raise HarnessError(f"--path-budget {value}: that is more than any disk holds.")
    return int(size)


def parse_place(value: str | Path) -> Path | str:
    """A folder, or an address.

    >>> parse_place("/shared/epochs"), parse_place("s3://bucket/epochs/"), parse_place("file:///shared/epochs")
    (PosixPath('/shared/epochs'), 's3://bucket/epochs', PosixPath('/shared/epochs'))
    """
    text = str(value).removeprefix("file://")
    return text.rstrip("/") if "://" in text else Path(text)


def parse_jobs(value: str | int | None) -> int | None:
    """How many at once; None for `auto`.

    >>> parse_jobs("auto"), parse_jobs("2"), parse_jobs(2)
    (None, 2, 2)
    """
    if value is None or value == "auto":
        return None
    text = str(value)
    if not text.isdecimal() or len(text) > 6 or int(text) < 1:
        raise HarnessError(f"--jobs {value}: give a whole number from 1 to 999999, or auto.")
    return int(text)
