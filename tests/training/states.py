"""Which states a tree holds, without reading them."""

from harness.training.tree import Tree


def has_state(tree: Tree, name: str, *, kept: bool = False) -> bool:
    """Whether a state file is there; with `kept`, one that no run will replace."""
    return any(path.suffix == ".state" or not kept for path in tree.states.glob(f"{name}-*.*"))
