"""The machine's load (CPU, memory, GPUs), under the metric names that MLflow's pages expect."""

import os
import time

import psutil
import pynvml

SECONDS = 10.0  # between two samples
SHORTEST = 0.5  # seconds between two samples: with less, the CPU load is noise
MEGABYTE = 1e6


class SystemSampler:
    """Samples the machine when it is called, in less than a millisecond. There is no thread."""

    def __init__(self) -> None:
        self._gpus = _find_gpus()
        psutil.cpu_percent()  # it measures the load since the last call
        self._sampled_at = time.monotonic()
        self._last: dict[str, float] = {}

    @property
    def is_due(self) -> bool:
        """Whether it is time for another sample."""
        return time.monotonic() - self._sampled_at >= SECONDS

    def sample(self) -> dict[str, float]:
        """The machine's load since the last sample, in percent, megabytes and watts."""
        if self._last and time.monotonic() - self._sampled_at < SHORTEST:
            return self._last
        memory = psutil.virtual_memory()
        metrics = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / MEGABYTE,
            "system_memory_usage_percentage": 100 * memory.used / memory.total,
        }
        for number, gpu in enumerate(self._gpus):
            metrics |= {f"gpu_{number}_{name}": value for name, value in _gpu_metrics(gpu).items()}
        self._sampled_at = time.monotonic()
        self._last = {f"system/{name}": round(value, 1) for name, value in metrics.items()}
        return self._last


def _find_gpus() -> list[object]:
    """NVIDIA's handles of the GPUs that `CUDA_VISIBLE_DEVICES` names, or of all; none without a driver."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        pynvml.nvmlInit()
        every = [pynvml.nvmlDeviceGetHandleByIndex(number) for number in range(pynvml.nvmlDeviceGetCount())]
        found = every if chosen is None else [_handle(name.strip(), every) for name in chosen.split(",")]
    except pynvml.NVMLError:
        return []
    return found[: found.index(None)] if None in found else found  # as CUDA: none after a name that is wrong


def _handle(name: str, every: list[object]) -> object | None:
    """The handle of a GPU by its number, by its UUID or the beginning of that, or of a slice (MIG) by its UUID."""
    if name.isdecimal():
        return every[int(name)] if int(name) < len(every) else None
    if name.startswith("MIG-"):
        found: object = pynvml.nvmlDeviceGetHandleByUUID(name)
        return found
    return next((gpu for gpu in every if name and str(pynvml.nvmlDeviceGetUUID(gpu)).startswith(name)), None)


def _gpu_metrics(gpu: object) -> dict[str, float]:
    """A GPU's metrics; a slice of a GPU (MIG) knows only its memory."""
    metrics: dict[str, float] = {}
    try:
        memory = pynvml.nvmlDeviceGetMemoryInfo(gpu)
        metrics["memory_usage_megabytes"] = memory.used / MEGABYTE
        metrics["memory_usage_percentage"] = 100 * memory.used / memory.total
        metrics["utilization_percentage"] = pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu
        metrics["power_usage_watts"] = pynvml.nvmlDeviceGetPowerUsage(gpu) / 1000
    except pynvml.NVMLError:
        pass
    return metrics
