"""All steps of the check in their order: what must be right first, then what is fast."""

import hashlib
import importlib.metadata
import itertools
import shutil
from pathlib import Path

import torch
from common import HERE, machine

from gpu.child import Rows
from gpu.running import Given, Step
from gpu.together import MPS
from harness.training.device import choose_device, choose_precision

NETWORKS, KINDS = ("vgg16", "googlenet", "mlp"), ("SGD", "AdamW")
PRECISIONS = ("float32", "tf32", "bfloat16", "float16")
LOOPS = ("DataLoader loop", "bare loop", "harness")
SIZES = {"VGG-16": 64, "a small VGG": 8}  # by the width of the network


def steps(*, quick: bool) -> list[Step]:
    """The steps; the quick ones leave out most of the recipes that are repeated."""
    return [
        Step(name="machine", call="gpu.steps:describe", limit_seconds=120),
        *(_repeat(*recipe) for recipe in _recipes(quick)),
        *(
            Step(name=name, call="gpu.faults:check_capture", values={"fault": fault}, needs=("CUDA",))
            for name, fault in {"no capture": "host", "failed capture": "capture"}.items()
        ),
        *(
            Step(name=name, call="gpu.faults:check_fault", values={"fault": fault}, needs=("CUDA",))
            for name, fault in {"device assert": "assert", "out of memory alone": "memory"}.items()
        ),
        Step(name="out of memory beside neighbours", call="gpu.faults:check_neighbours", needs=("CUDA",)),
        Step(name="peak of memory", call="gpu.memory:check_peak", needs=("CUDA",)),
        Step(name="memory over many trials", call="gpu.memory:check_growth"),
        Step(name="kill -9 and resume", call="gpu.commands:check_kill"),
        Step(name="demo, reload, report", call="gpu.commands:check_demo"),
        Step(name="ceiling", call="gpu.speed:measure_ceiling", limit_seconds=120),
        *(
            Step(name=rate_name(loop, size), call="gpu.speed:measure_rate", values={"loop": loop, "batch_size": size})
            for size, loop in itertools.product((64, 512), LOOPS)
        ),
        *(_jobs(size, jobs, mps) for size, mps, jobs in itertools.product(SIZES, (False, True), (1, 2, 4))),
        *(
            Step(
                name=streams_name(size, jobs), call="gpu.together:measure_streams",
                values={"jobs": jobs, "width": SIZES[size]},
            )
            for size, jobs in itertools.product(SIZES, (2, 4))
        ),
        Step(name="cost of determinism", call="gpu.speed:measure_determinism"),
        Step(name="speedrun", call="gpu.commands:measure_speedrun", needs=() if quick else ("images",)),
        *(
            Step(
                name=name, call="gpu.together:measure_search", values={"tree": tree}, limit_seconds=590,
                needs=() if quick else ("images",),
            )
            for name, tree in {"search with the tree": True, "search without the tree": False}.items()
        ),
    ]  # fmt: skip


def rate_name(loop: str, batch_size: int) -> str:
    """The name of the step that measures a loop at a batch size."""
    return f"{loop}, batch {batch_size}"


def jobs_name(size: str, jobs: int, mps: bool) -> str:
    """The name of the step that trains so many trials of a network at once."""
    return f"{jobs} at once, {size}{', MPS' if mps else ''}"


def streams_name(size: str, jobs: int) -> str:
    """The name of the step that trains so many runs of a network on streams of one process."""
    return f"{jobs} on streams, {size}"


def lacking(given: Given) -> dict[str, str]:
    """What steps need and this machine has not, with the words to say so."""
    is_cuda = given.device.startswith("cuda")
    found = {} if is_cuda else {"CUDA": "needs CUDA", "MPS": "needs CUDA"}
    if is_cuda and shutil.which(MPS) is None:
        found["MPS"] = f"there is no {MPS}"
    return found if given.images is not None else found | {"images": "needs --images"}


def describe(given: Given, rows: Rows) -> None:
    """The machine and the versions."""
    for name, value in machine().items():
        if value is not None:
            rows.add(name, value)
    device = choose_device(given.device)
    rows.add("torchvision", importlib.metadata.version("torchvision"))
    rows.add("device", str(device))
    rows.add("precision = 'auto' is", choose_precision("auto", device))
    rows.add("images", "generated" if given.images is None else given.images.name)
    if device.type != "cuda":
        return
    found = torch.cuda.get_device_properties(device)
    rows.add("GPU", found.name)
    rows.add("compute capability", f"{found.major}.{found.minor}")
    rows.add("memory", found.total_memory / 2**30, "GiB")
    rows.add("CUDA, cuDNN of torch", f"{torch.version.cuda}, {torch.backends.cudnn.version()}")
    rows.add("driver", _driver())
    rows.add("MPS", "there" if shutil.which(MPS) else "not there")


def identity(given: Given) -> dict[str, str | bool | None]:
    """What two records must have in common to belong to one check."""
    device = choose_device(given.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(machine()["cpu"])
    images = None if given.images is None else Path(given.images).name
    return {
        "device": f"{device}: {name}", "torch": torch.__version__, "code": code_digest(), "quick": given.quick,
        "images": images,
    }  # fmt: skip


def code_digest() -> str:
    """A digest of everything that runs here: the harness, the programs and their specs."""
    digest = hashlib.sha256()
    for folder in ("harness", "benchmarks", "experiments"):
        for path in sorted((HERE.parent / folder).rglob("*.py")):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _recipes(quick: bool) -> list[tuple[str, str, str]]:
    every = list(itertools.product(NETWORKS, KINDS, PRECISIONS))
    if not quick:
        return every
    return [recipe for recipe in every if recipe[2] == "float32" or recipe[:2] == ("vgg16", "SGD")]


def _repeat(network: str, kind: str, precision: str) -> Step:
    values = {"network": network, "kind": kind, "precision": precision}
    return Step(name=f"repeats: {network} {kind} {precision}", call="gpu.repeat:check_recipe", values=values)


def _jobs(size: str, jobs: int, mps: bool) -> Step:
    values = {"jobs": jobs, "width": SIZES[size], "mps": mps}
    return Step(
        name=jobs_name(size, jobs, mps), call="gpu.together:measure_jobs", values=values, needs=("MPS",) if mps else ()
    )


def _driver() -> str:
    import pynvml

    pynvml.nvmlInit()
    return str(pynvml.nvmlSystemGetDriverVersion())
