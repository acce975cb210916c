"""What docs/cluster.md and deploy/ tell people to run: every command and option exists, every file is valid."""

import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml
from running import ROOT, environment

DOCUMENT = ROOT / "docs" / "cluster.md"
TOOLS = ("ray", "mlflow", "harness")
BINARIES = Path(sys.executable).parent


@cache
def help_of(*command: str) -> str:
    """The help of a command, such as `ray start`."""
    program = [sys.executable, "-m", "harness"] if command[0] == "harness" else [str(BINARIES / command[0])]
    done = subprocess.run(
        [*program, *command[1:], "--help"], capture_output=True, text=True, env=environment(COLUMNS="200")
    )
    assert done.returncode == 0, f"{' '.join(command)} does not exist: {done.stderr}"
    return done.stdout


def commands(text: str) -> list[tuple[str, ...]]:
    """Tool, subcommand and options of each command in a text."""
    joined = text.replace("\\\n", " ").replace("python -m harness", "harness")
    found = []
    for line in joined.splitlines():
        words = shlex.split(line.removeprefix("$ "), comments=True)
        for start, word in enumerate(words[:-1]):
            if Path(word).name in TOOLS and re.fullmatch(r"[a-z][a-z-]*", words[start + 1]):
                rest = words[start + 2 :]
                stop = next((i for i, other in enumerate(rest) if other in ("--", "&&", *TOOLS)), len(rest))
                options = [other.partition("=")[0] for other in rest[:stop] if other.startswith("--")]
                found.append((Path(word).name, words[start + 1], *options))
    return found


def assert_they_exist(found: list[tuple[str, ...]]) -> None:
    for tool, subcommand, *options in found:
        shown = help_of(tool, subcommand)
        if (tool, subcommand) == ("ray", "symmetric-run"):
            shown += help_of("ray", "start")  # it passes them on
        for option in options:
            assert re.search(rf"(?<![\w-]){option}(?![\w-])", shown), f"{tool} {subcommand} has no {option}"


@pytest.mark.slow
def test_every_command_of_the_cluster_page_exists() -> None:
    pytest.importorskip("ray", reason="needs Ray: pip install 'experiment-harness[ray]'")
    blocks = re.findall(r"```(?:console|bash)\n(.*?)```", DOCUMENT.read_text(), re.S)
    found = [command for block in blocks for command in commands(block)]
    assert {command[:2] for command in found} >= {("ray", "start"), ("ray", "symmetric-run"), ("mlflow", "server")}
    assert_they_exist(found)


def test_every_option_of_the_cluster_page_is_one_of_the_sweep() -> None:
    named = set(re.findall(r"`(--[a-z-]+)", DOCUMENT.read_text()))
    assert named
    assert_they_exist([("harness", "sweep", *named)])


def test_files_that_the_cluster_page_links_to_exist() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", DOCUMENT.read_text()):
        assert link.startswith("https://") or (DOCUMENT.parent / link).resolve().exists(), link


@pytest.mark.slow
def test_the_ray_cluster_file_is_one_that_ray_takes() -> None:
    pytest.importorskip("ray", reason="needs Ray: pip install 'experiment-harness[ray]'")
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((ROOT / "deploy" / "ray-cluster.yaml").read_text())
    validate_config(prepare_config(config))
    lines = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    assert_they_exist([found for line in lines for found in commands(line)])


@pytest.mark.slow
def test_the_compose_file_names_only_what_it_defines() -> None:
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
    services, volumes = compose["services"], compose["volumes"]
    for name, service in services.items():
        assert re.search(r":[\w.-]*\d", service["image"]), f"{name}: an image without a version is another one tomorrow"
        assert set(service.get("depends_on", ())) <= services.keys()
        assert {volume.partition(":")[0] for volume in service.get("volumes", ())} <= volumes.keys()
    server = services["mlflow"]
    installed = server["command"][-1].partition("&&")[0].split()[3:]
    assert installed and all("==" in package for package in installed), installed
    used = set(re.findall(r"\$\$(\w+)", server["command"][-1]))
    assert used and used <= server["environment"].keys()
    assert_they_exist(commands(server["command"][-1].replace("$$", "$")))
