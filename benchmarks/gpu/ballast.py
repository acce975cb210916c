"""Holds the memory of a GPU, but for some bytes, until its standard input ends: a neighbour of what is checked.

python benchmarks/gpu/ballast.py DEVICE BYTES_LEFT
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

PIECE = 2**28  # bytes; in one piece it may not fit


@contextmanager
def holding_all_but(left: int, device: str) -> Iterator[int]:
    """Inside the block, a process of its own holds the GPU's memory but for so many bytes; gives what it holds."""
    command = [sys.executable, __file__, device, str(left)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.stdin.close()
            process.wait(60)


def main() -> None:
    device, left = torch.device(sys.argv[1]), int(sys.argv[2])
    held = []
    torch.zeros(1, device=device)
    while torch.cuda.mem_get_info(device)[0] > left + PIECE:
        held.append(torch.empty(PIECE, dtype=torch.uint8, device=device))
    print(len(held) * PIECE, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
