"""Unwrapped optimizers step to the same bits, and leave torch's compiler unloaded until something is compiled."""

import subprocess
import sys

PROGRAM = """
import sys
import torch
from harness.training.optimizers import unwrap_optimizers

if "unwrap" in sys.argv:
    unwrap_optimizers()
for name, kind in sorted(vars(torch.optim).items()):
    if not isinstance(kind, type) or kind is torch.optim.Optimizer or name in ("LBFGS", "SparseAdam"):
        continue
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3, bias=False)
    optimizer = kind(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    for _ in range(4):
        optimizer.zero_grad()
        model(torch.ones(2, 4)).square().sum().backward()
        optimizer.step()
        schedule.step()
        optimizer.load_state_dict(optimizer.state_dict())
    assert not model.weight.grad_fn
    print(name, model.weight.detach().flatten().tolist(), optimizer.param_groups[0]["lr"])
print("compiler", "torch._dynamo" in sys.modules)
doubled = torch.compile(lambda x: x * 2, backend="eager")
print(doubled(torch.ones(1)).item())
if "unwrap" in sys.argv:
    optimizer.step()
"""


def test_unwrapped_optimizers_are_the_same_without_the_compiler() -> None:
    def run(*arguments: str) -> list[str]:
        command = [sys.executable, "-c", PROGRAM, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()

    wrapped, unwrapped = run(), run("unwrap")
    assert len(unwrapped) > 10
    assert unwrapped[:-2] == wrapped[:-2], "every optimizer gives the same bits"
    assert unwrapped[-2:] == ["compiler False", "2.0"]
    assert wrapped[-2:] == ["compiler True", "2.0"]
