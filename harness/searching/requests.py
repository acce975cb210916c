"""Creates the MLflow run of a training, with its tags, and the request to the worker."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.machine import DEFAULT_ADDRESS_BUDGET, default_path_budget
from harness.objects import Away, open_objects
from harness.searching.lock import is_held
from harness.searching.plan import Options, Plan
from harness.searching.task import Task
from harness.settings import of_a_run
from harness.tracking.provenance import git_tags
from harness.tracking.store import RUNNING, RunLog, Store
from harness.tracking.studies import changes_between
from harness.tracking.tags import (
    COMPARABLE,
    CONFIRMS,
    DEMO,
    DIRECTION,
    EXPERIMENT_KIND,
    KIND,
    NOTE,
    OBJECTIVE,
    RECIPE,
    SEED,
    SOURCE_NAME,
    SPEC,
    SPEC_PATH,
    STATUS,
    TRAIN_KIND,
    VALUES,
    where,
)
from harness.training.origin import Origin
from harness.workers.messages import Train


def build_task(options: Options, plan: Plan, store: Store, log: RunLog, name: str, values: Mapping[str, Any]) -> Task:
    # Machines of a cluster can have different numbers of cores: all trials use the first one's number of threads.
    threads = {"threads": plan.report.threads} if options.ray and plan.report.threads else {}
    # With a tree outside of the store, workers may not see the store: the driver fetches the checkpoints.
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
            values=of_a_run(values) | threads,
            run_id=log.run_id,
            device=options.device,
            is_demo=options.is_demo,
            paths=paths,
            budget_bytes=budget if options.path_budget_bytes is None else options.path_budget_bytes,
            checkpoints=checkpoints,
            expected_recipe=log.run.data.tags.get(RECIPE),
            code=plan.report.code,
            awaits_verdict=plan.fixed["pruner"] is not None,
            proof=plan.report.proof,
            generation=plan.report.generation,
            fingerprints=plan.report.fingerprints,
        ),
    )


def find_or_create_run(
    store: Store,
    experiment_id: str,
    options: Options,
    plan: Plan,
    values: Mapping[str, Any],
    *,
    kind: str,
    identity: Mapping[str, str],
) -> RunLog:
    """The interrupted run of this kind with the tags `identity`, or a new run."""
    params = {name: values[name] for name in plan.description.hyperparameters}
    earlier = store.find_runs(experiment_id, where(KIND, kind))
    for run in earlier:
        tags = run.data.tags
        is_open = store.owns(run) and (run.info.status == RUNNING or tags.get(STATUS) == "interrupted")
        is_same = all(tags.get(tag) == value for tag, value in identity.items())
        if is_open and is_same and not is_held(run_lock(store, run.info.run_id)):
            log = store.resume_run(run.info.run_id)
            log.log_params(params)
            return log
    tags = {KIND: kind, **identity} | source_tags(options, plan)
    return store.create_run(experiment_id, f"{kind}-{len(earlier) + 1:04d}", params=params, tags=tags)


def train_identity(plan: Plan, start: Origin | None) -> dict[str, str]:
    """The tags by which an interrupted run of `train` is found: digests of its values, recipe and start."""
    digest = start.digest() if start else ""
    key = json.dumps([of_a_run(plan.defaults), plan.report.recipe_digest, digest], sort_keys=True, default=repr)
    return {VALUES: hashlib.sha256(key.encode()).hexdigest()[:16]}


def changes_since_last_train(store: Store, experiment_id: str, options: Options, plan: Plan) -> str | None:
    """What of the recipe changed since the newest run of `train`, in a sentence; None if nothing is known to differ."""
    runs = store.find_runs(experiment_id, where(KIND, TRAIN_KIND), is_newest=True)
    last = next((run for run in runs if RECIPE in run.data.tags), None)
    before = None if last is None else _read_recipe(options.paths or store.paths, last.data.tags[RECIPE])
    if last is None or before is None:
        return None
    old, new = (
        {"code": recipe["code"], "settings": recipe["values"] | recipe["rest"]}
        for recipe in (before, plan.report.recipe)
    )
    for name in ("start", "generation"):  # what the preflight says of them is said already
        old["settings"].pop(name, None)
    changes = changes_between(old, new)
    return f"changed since {last.info.run_name}: {'; '.join(changes)}. Its epochs are not reused." if changes else None


def _read_recipe(paths: Path | str, digest: str) -> dict[str, Any] | None:
    """The parts of a recipe whose epochs are in the tree; None if they are not."""
    name = f"{digest}/recipe.json"
    try:
        content = (paths / name).read_bytes() if isinstance(paths, Path) else open_objects(paths).read(name)
        parts: dict[str, Any] = json.loads(content or b"null")
    except (OSError, Away, ValueError):
        return None
    return parts


def seed_identity(of: str, seed: int) -> dict[str, str]:
    """The tags by which the run of `confirm` for run `of` and this seed is found."""
    return {CONFIRMS: of, SEED: str(seed)}


def run_lock(store: Store, run_id: str) -> Path:
    return store.folder / "locks" / f"{run_id}.lock"


def open_experiment(store: Store, options: Options, plan: Plan, *, ranks: bool) -> str:
    """The experiment's id. With `ranks`, its runs are ranked by this plan's objective from now on."""
    ranking = {OBJECTIVE: plan.fixed["objective"], DIRECTION: plan.direction}
    tags = {
        SPEC: str(options.spec),
        EXPERIMENT_KIND: "custom_model_development",
        NOTE: plan.description.summary or options.name,
    }
    return store.experiment_id(options.name, tags=tags | ranking if ranks else tags, first_tags=ranking)


def source_tags(options: Options, plan: Plan) -> dict[str, str]:
    tags = {
        SOURCE_NAME: str(options.spec),
        SPEC: options.name,
        SPEC_PATH: str(options.spec.absolute()),
        DEMO: str(options.is_demo).lower(),
        OBJECTIVE: plan.fixed["objective"],
        COMPARABLE: comparable_digest(plan),
    }
    tags |= {NOTE: plan.description.summary} if plan.description.summary else {}
    return tags | git_tags(options.spec)


def comparable_digest(plan: Plan) -> str:
    """A digest of the code and the data of a run: values of runs with the same digest can be compared."""
    named = json.dumps([plan.report.code, plan.report.recipe["rest"]["data"]], sort_keys=True)
    return hashlib.sha256(named.encode()).hexdigest()[:16]
