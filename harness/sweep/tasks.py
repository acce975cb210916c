"""From a plan to runs: the MLflow run of a training, with its tags, and the request that a worker gets."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.machine import DEFAULT_ADDRESS_BUDGET, default_path_budget
from harness.sweep.driver import Task
from harness.sweep.lock import is_held
from harness.sweep.messages import Train
from harness.sweep.plan import Options, Plan, trainable
from harness.tracking.provenance import git_tags
from harness.tracking.store import (
    COMPARABLE,
    CONFIRM,
    CONFIRMS,
    DIRECTION,
    KIND,
    OBJECTIVE,
    RUNNING,
    STATUS,
    RunLog,
    Store,
)


def build_task(options: Options, plan: Plan, store: Store, log: RunLog, name: str, values: Mapping[str, Any]) -> Task:
    # Machines of a cluster may have other numbers of cores: all trials get the threads of the first one.
    threads = {"threads": plan.report.threads} if options.ray and plan.report.threads else {}
    # Where the tree is elsewhere, workers may see that place alone: the driver fetches checkpoints from there.
    checkpoints: Path | None = log.folder / "checkpoints"
    budget = DEFAULT_ADDRESS_BUDGET
    paths = store.paths if options.paths is None else options.paths
    if isinstance(paths, Path):
        paths = paths.absolute()
        paths.mkdir(parents=True, exist_ok=True)
        budget = default_path_budget(paths)
        if options.paths is not None:
            checkpoints = paths / "checkpoints" / log.run_id
    elif options.ray is not None:
        checkpoints = None
    return Task(
        name=name,
        log=log,
        objective=plan.fixed["objective"],
        objective_at=plan.fixed["objective_at"],
        request=Train(
            spec=options.spec,
            values=trainable(values) | threads,
            run_id=log.run_id,
            device=options.device,
            is_demo=options.is_demo,
            paths=paths,
            budget_bytes=budget if options.path_budget_bytes is None else options.path_budget_bytes,
            checkpoints=checkpoints,
            expected_recipe=log.run.data.tags.get("harness.recipe"),
            code=plan.report.code,
            awaits_verdict=plan.fixed["pruner"] is not None,
        ),
    )


def find_train_run(store: Store, experiment_id: str, options: Options, plan: Plan, start: Path | None) -> RunLog:
    """The run to train: an interrupted one of the same values and recipe, or a new one."""
    digest = hashlib.sha256(start.read_bytes()).hexdigest() if start else ""
    key = json.dumps([trainable(plan.defaults), plan.report.recipe_digest, digest], sort_keys=True, default=repr)
    tag = hashlib.sha256(key.encode()).hexdigest()[:16]
    params = {name: plan.fixed[name] for name in plan.description.hyperparameters}
    earlier = store.find_runs(experiment_id, "tags.\"harness.kind\" = 'train'")
    for run in earlier:
        is_open = store.owns(run) and (run.info.status == RUNNING or run.data.tags.get(STATUS) == "interrupted")
        if is_open and run.data.tags.get("harness.values") == tag and not is_held(run_lock(store, run.info.run_id)):
            log = store.resume_run(run.info.run_id)
            log.log_params(params)
            return log
    tags = {"harness.kind": "train", "harness.values": tag} | source_tags(options, plan)
    return store.create_run(experiment_id, f"train-{len(earlier) + 1:04d}", params=params, tags=tags)


def find_seed_run(
    store: Store, experiment_id: str, options: Options, plan: Plan, values: Mapping[str, Any], *, of: str
) -> RunLog:
    """The run that repeats run `of` with the seed in `values`: an interrupted one, or a new one."""
    params = {name: values[name] for name in plan.description.hyperparameters}
    earlier = store.find_runs(experiment_id, f"tags.\"{KIND}\" = '{CONFIRM}'")
    for run in earlier:
        tags = run.data.tags
        is_open = store.owns(run) and (run.info.status == RUNNING or tags.get(STATUS) == "interrupted")
        if is_open and (tags.get(CONFIRMS), tags.get("harness.seed")) == (of, str(values["seed"])):
            log = store.resume_run(run.info.run_id)
            log.log_params(params)
            return log
    tags = {KIND: CONFIRM, CONFIRMS: of, "harness.seed": str(values["seed"])}
    name = f"confirm-{len(earlier) + 1:04d}"
    return store.create_run(experiment_id, name, params=params, tags=tags | source_tags(options, plan))


def run_lock(store: Store, run_id: str) -> Path:
    return store.folder / "locks" / f"{run_id}.lock"


def open_experiment(store: Store, options: Options, plan: Plan, *, ranks: bool) -> str:
    """The experiment's id; `ranks` says that its runs are compared by this plan's objective from now on."""
    ranking = {OBJECTIVE: plan.fixed["objective"], DIRECTION: plan.direction}
    tags = {
        "harness.spec": str(options.spec),
        "mlflow.experimentKind": "custom_model_development",
        "mlflow.note.content": plan.description.summary or options.name,
    }
    return store.experiment_id(options.name, tags=tags | ranking if ranks else tags, first_tags=ranking)


def source_tags(options: Options, plan: Plan) -> dict[str, str]:
    tags = {
        "mlflow.source.name": str(options.spec),
        "harness.spec": options.name,
        "harness.spec_path": str(options.spec.absolute()),
        "harness.demo": str(options.is_demo).lower(),
        OBJECTIVE: plan.fixed["objective"],
        COMPARABLE: comparable_digest(plan),
    }
    tags |= {"mlflow.note.content": plan.description.summary} if plan.description.summary else {}
    return tags | git_tags(options.spec)


def comparable_digest(plan: Plan) -> str:
    """What names the code and the data of a run: values of runs that share it can be compared."""
    named = json.dumps([plan.report.code, plan.report.recipe["rest"]["data"]], sort_keys=True)
    return hashlib.sha256(named.encode()).hexdigest()[:16]
