"""How many messages Ray transports: actors without training send as fast as the driver receives.

    python benchmarks/ray_messages.py

The driver's side is the real one (`RayWorkers`: actors, waiting for all of them, an answer, the next call); the actors
differ from the real ones in that they load no torch and that every call finds one message, which is the worst case:
a real worker that has said more since sends all of it at once. Everything runs on this machine, so the actors and Ray's
own processes take part of its cores. CPU is that of the driver, in percent of a core.
"""

import argparse
import time
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from common import SPECS, parser, publish
from growth import made_up_run, prepared_run

from harness.training.results import EpochResult
from harness.workers import ray_workers
from harness.workers.messages import Train
from harness.workers.ray_actor import RayActor
from harness.workers.ray_workers import RayWorkers
from harness.workers.shipping import Shipment

SHARE = 0.01  # of a core that Ray sets aside for a worker: so that it starts as many as are asked for


class Talker(RayActor):
    """A worker that has an epoch to tell whenever it is listened to."""

    def __init__(self, shipment: Shipment) -> None:
        self._told = SimpleQueue()
        self._epoch: EpochResult | None = None

    def listen(self) -> list[Any]:
        if self._epoch is None:
            self._epoch = self._told.get()
        return [self._epoch]


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--workers", type=int, nargs="+", default=[4, 16, 48])
    arguments.add_argument("--seconds", type=float, default=10, help="of a row")
    given = arguments.parse_args()
    if given.quick:
        given.workers, given.seconds = [2], 1
    publish(
        "ray_messages", given, ["workers", "messages/s", "rounds/s", "CPU %", "ms of CPU a message"], measure(given)
    )


def measure(given: argparse.Namespace) -> list[list[Any]]:
    spec = SPECS / "digits.py"
    request = Train(
        spec=spec, values={"lr": 0.1, "momentum": 0.9, "epochs": 1}, run_id="0", device="cpu", is_demo=False,
        paths=Path(), budget_bytes=0, checkpoints=Path(),
    )  # fmt: skip
    _, epoch, _ = made_up_run(request, prepared_run(spec))
    ray_workers.RayActor = Talker  # what RayWorkers starts
    workers = RayWorkers("local", spec, cpus=SHARE, gpus=0)
    rows = []
    try:
        started: list[int] = []
        for count in sorted(given.workers):
            while len(started) < count:
                started.append(workers.start())
                workers.send(started[-1], epoch)
            for _ in range(3):
                workers.receive(1)
            began, cpu, heard, rounds = time.monotonic(), time.process_time(), 0, 0
            while (seconds := time.monotonic() - began) < given.seconds:
                heard += len(workers.receive(1))
                rounds += 1
            cpu = time.process_time() - cpu
            rows.append([count, heard / seconds, rounds / seconds, 100 * cpu / seconds, 1000 * cpu / heard])
    finally:
        workers.kill_all()
    return rows


if __name__ == "__main__":
    main()
