"""One sweep command, from the study and the store it opens to its last lines: trials to train, and their results."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import optuna

from harness.errors import FAILED, HarnessError
from harness.files import remove_abandoned
from harness.reporting.screen import Screen, shown_seconds, shown_values
from harness.searching.agreement import check_agreement, last_sweep, study_uids
from harness.searching.course import Course, at_edge
from harness.searching.limits import Limits
from harness.searching.longer import carry_trials, has_waiting, is_longer
from harness.searching.outcome import SweepResult
from harness.searching.plan import Options, Plan, identity_of
from harness.searching.requests import build_task, open_experiment, source_tags
from harness.searching.study import (
    BEFORE,
    CARRIES,
    SEEN,
    UNCOUNTED,
    WAITING,
    OpenTrial,
    Study,
    is_unfinished,
    trial_name,
)
from harness.searching.task import Task
from harness.tracking.journal import (
    archive_study,
    archived_studies,
    open_database,
    open_journal,
    open_study,
    read_journal,
)
from harness.tracking.runs import RunRecord, best_record
from harness.tracking.store import FAILED_STATUS, JOURNAL, RunLog, Store
from harness.tracking.studies import changes_between
from harness.tracking.tags import KIND, STATUS, STUDY, SWEEP, TRIAL, TRIAL_KIND, where
from harness.workers.messages import Train

if TYPE_CHECKING:
    from mlflow.entities import Run

    from harness.results.registry import Registrar


class SweepSession:
    """The study and the store of one sweep command."""

    def __init__(self, options: Options, plan: Plan, limits: Limits, screen: Screen) -> None:
        self._options, self._plan, self._screen = options, plan, screen
        self.store = Store(options.store, create=True, say=screen.say)
        remove_abandoned(self.store.folder)
        self._experiment_id = open_experiment(self.store, options, plan, ranks=True)
        url = options.study_storage
        self._storage = open_journal(self.store.journal) if url is None else open_database(url)
        self._source_tags = source_tags(options, plan)
        self._study = self._open_study()
        self._course = Course(self._study, plan, limits, screen, self._task)
        self._course.nears_end = self._prepare_registration
        self._registrar: Registrar | None = None

    def tasks(self) -> Iterator[Task | None]:
        """The tasks: first the interrupted trials, then what the search asks for, until a limit is reached."""
        return self._course.tasks()

    def summarize(self) -> None:
        """Prints the sweep's last lines: epochs asked, trained and saved, the trials that wait, and the best run."""
        asked, reused, seconds = self._totals()
        saved = f" ({shown_seconds(seconds)} of training)" if reused else ""
        self._screen.say(f"epochs: {asked} asked, {asked - reused} trained, {reused} saved{saved}")
        for line in self._course.outlook():
            self._screen.say(line)
        best = self._study.best()
        if best is None:
            self._screen.say("no trial finished.")
            return
        objective = self._plan.fixed["objective"]
        name, value, values = trial_name(best.number), best.value, json.loads(best.user_attrs["values"])
        if (record := self._best_record()) is not None:
            name, value, values = record.name, record.value, record.params
        self._screen.say(f"best: {name}  {objective} {value:.4f}  {shown_values(values, list(self._plan.searched))}")
        edges = at_edge(self._plan.searched, values)
        if edges:
            shown = ", ".join(f"{name} {value:g}" for name, value in edges.items())
            self._screen.say(f"at the edge of its range: {shown}. A wider range may hold better values.")

    def send_waiting(self) -> None:
        """Sends the artifacts of waiting trials to a tracking server that keeps them."""
        if not self.store.is_local:
            self._course.upload(self.store.open_log)

    def check_outcome(self) -> None:
        """Says how many trials failed; raises `HarnessError` if all of them did."""
        told = [trial.user_attrs.get("outcome") for trial in self._study.trials()]
        outcomes = [outcome for outcome in told if outcome not in (None, *UNCOUNTED)]
        counts = {name: outcomes.count(name) for name in ("failed", "diverged") if name in outcomes}
        if not counts:
            return
        shown = " and ".join(f"{count} {name}" for name, count in counts.items())
        why = f"`python -m harness runs {self._options.spec}` says why"
        if sum(counts.values()) == len(outcomes):
            raise HarnessError(f"no trial finished: of {len(outcomes)}, {shown}; {why}.", exit_code=FAILED)
        self._screen.say(f"of {len(outcomes)} trials, {shown}; {why}.")

    def result(self) -> SweepResult:
        """The result of the sweep."""
        asked, reused, _ = self._totals()
        return SweepResult(
            name=self._options.name,
            store=self.store.folder,
            study=self._study.number,
            objective=self._plan.fixed["objective"],
            trials=self._study.count,
            epochs=asked,
            trained_epochs=asked - reused,
            best=self._best_record() if self._study.best() is not None else None,
        )

    def _totals(self) -> tuple[int, int, float]:
        """The epochs that the trials asked for, how many of them were known, and the seconds of training."""
        names = ("epochs", "reused_epochs", "saved_seconds")
        told = [trial.user_attrs for trial in self._study.trials()]
        asked, reused, saved = (sum(attributes.get(name, 0) for attributes in told) for name in names)
        before = sum(attributes.get(SEEN, {}).get(BEFORE, 0) for attributes in told if "epochs" in attributes)
        return round(asked), round(reused) + before, saved

    def _best_record(self) -> RunRecord | None:
        """The best run. It may be a run of `train`: the command `best` gives the same one."""
        return best_record(self.store, self._options.name) if self.store.takes_runs else None

    def register(self) -> None:
        """Registers the best run as MLflow's model, if it is not registered yet."""
        from harness.results.registry import register_best

        if self._study.best() is not None and self.store.takes_runs:
            register_best(self.store, self._options.name, self._screen.say, self._registrar)

    def _prepare_registration(self) -> None:
        """Starts the slow steps of the end while the last trials are still training."""
        if self._options.registers and self._registrar is None:
            from harness.results.registry import Registrar

            self._registrar = Registrar(self.store)

    def _open_study(self) -> Study:
        options, plan = self._options, self._plan
        identity = identity_of(plan)
        before = open_study(self._storage, options.name)
        if before is not None and is_unfinished(before):
            before = None
        if not options.is_fresh:
            uids = study_uids(self._storage) if before is None else ()
            check_agreement(self.store, self._experiment_id, before, uids=uids)
        earlier = 0 if before is not None else last_sweep(self.store, self._experiment_id)  # if its study was lost
        if before is not None:
            changes = changes_between(json.loads(before.user_attrs.get("identity", "{}")), identity)
            if changes or options.is_fresh:
                earlier = before.user_attrs.get("number", 0)
                self._archive(before, changes)
                before = None
        archives = archived_studies(self._storage, options.name)
        carried = self._to_carry(archives) if before is None else before.user_attrs.get(CARRIES)
        study = Study(
            self._storage,
            options.name,
            plan.searched,
            objective=plan.fixed["objective"],
            direction=plan.direction,
            seed=plan.fixed["seed"],
            sampler=plan.fixed["sampler"],
            pruner=plan.fixed["pruner"],
            identity=identity,
            carries=carried,
            number=max(len(archives), earlier) + 1,
        )
        if carried is not None:
            carry_trials(self._storage, carried, study)
            self._carry_runs(carried, study)
        for change in study.note_recipe(plan.report.recipe):
            self._screen.say(f"{change}: epochs trained before are not reused.")
        return study

    def _archive(self, before: optuna.Study, changes: list[str]) -> None:
        """Keeps the study under another name, and ends the runs that do not continue in a new one."""
        uid, goes_on = before.user_attrs.get("uid", ""), continues(before, self._plan)
        archived = archive_study(self._storage, self._options.name)
        if not goes_on:
            self._close_runs(uid, archived)
        self._screen.say(
            f"{_why_anew(changes)}.\nA new study starts; the earlier one and its runs are kept as {archived}: "
            f"--study {archived.rpartition('~')[2]} shows them.{' Its waiting trials go on in the new one.' * goes_on}"
        )

    def _to_carry(self, archives: list[str]) -> str | None:
        """The name of the newest earlier study, if its trials that wait continue in the new one."""
        if not archives:
            return None
        newest = optuna.load_study(study_name=archives[-1], storage=self._storage)
        return archives[-1] if continues(newest, self._plan) else None

    def _close_runs(self, study_uid: str, archived: str) -> None:
        """Ends the runs that an earlier study left open."""
        for run in self._open_runs(study_uid):
            log = self.store.resume_run(run.info.run_id)
            log.end(FAILED_STATUS, "failed", f"of an earlier study, {archived}, which does not continue")

    def _carry_runs(self, earlier: str, study: Study) -> None:
        """Gives the open runs of an earlier study to this one, which has their trials."""
        uid = optuna.load_study(study_name=earlier, storage=self._storage).user_attrs.get("uid", "")
        for run in self._open_runs(uid):
            log = RunLog(self.store, run)
            log.add_tags({STUDY: study.uid, SWEEP: study.number})
            log.send()

    def _open_runs(self, study_uid: str) -> list["Run"]:
        """The runs of a study that wait, were interrupted, or were training when their command was killed."""
        of_study = where(STUDY, study_uid)
        queries = ("attributes.status = 'RUNNING'", where(STATUS, "interrupted"), where(STATUS, WAITING))
        return [
            run for query in queries for run in self.store.find_runs(self._experiment_id, f"{of_study} AND {query}")
        ]

    def _task(self, asked: OpenTrial) -> Task:
        options, plan = self._options, self._plan
        name = trial_name(asked.number)
        tags = {STUDY: self._study.uid, TRIAL: str(asked.number), KIND: TRIAL_KIND}
        tags |= {SWEEP: str(self._study.number)}
        params = {name: (asked.values | plan.fixed)[name] for name in plan.description.hyperparameters}
        log = self._find_run(asked)

        def create_log() -> RunLog:
            made = self.store.create_run(self._experiment_id, name, params=params, tags=tags | self._source_tags)
            asked.trial.set_user_attr("run_id", made.run_id)
            return made

        def build(log: RunLog) -> Task:
            return build_task(options, plan, self.store, log, name, plan.fixed | asked.values)

        def renew() -> tuple[RunLog, Train]:
            task = build(create_log())
            return task.log, task.request

        if log is None:
            log = create_log()
        else:
            log.log_params(params)  # if the kill came after the run was created and before its params were logged
            if asked.run_id != log.run_id:
                asked.note_run(log.run_id)
        task = build(log)
        task.trial, task.renew = asked, renew
        return task

    def _find_run(self, asked: OpenTrial) -> RunLog | None:
        """The MLflow run of an interrupted trial, even if the kill came before Optuna knew of it."""
        if asked.run_id is not None:
            try:
                return self.store.resume_run(asked.run_id)
            except HarnessError as error:
                self._screen.say(f"{trial_name(asked.number)}: {error}; it goes on as another run")
                return None
        query = f"{where(STUDY, self._study.uid)} AND {where(TRIAL, asked.number)}"
        found = self.store.find_runs(self._experiment_id, query) if asked.was_interrupted else []
        return self.store.resume_run(found[0].info.run_id) if found else None


def describe_study(options: Options, plan: Plan) -> str:
    """What a sweep would do with the present study, in a sentence. Nothing is written."""
    url = options.study_storage
    journal = options.store / JOURNAL
    if url is None and not journal.exists():
        return "The first study would start."
    before = open_study(read_journal(journal) if url is None else open_database(url), options.name)
    if before is None:
        return "The first study would start."
    changes = changes_between(json.loads(before.user_attrs.get("identity", "{}")), identity_of(plan))
    if changes or options.is_fresh:
        goes_on = " Its waiting trials would go on." * continues(before, plan)
        return f"{_why_anew(changes)}.\nA new study would start; the earlier runs would be kept.{goes_on}"
    count = sum(trial.user_attrs.get("outcome") not in UNCOUNTED for trial in before.trials)
    return f"The study would continue: it has {count} trials."


def continues(before: optuna.Study, plan: Plan) -> bool:
    """Whether the trials of an earlier study that wait continue in the new one, which has more epochs.

    They do if their learning rates stay what they were: `scheduler()` does not read the number of epochs.
    """
    longer = is_longer(json.loads(before.user_attrs.get("identity", "{}")), identity_of(plan))
    is_fit = plan.fixed["sampler"] == "tree" and "epochs" not in plan.report.schedules_by
    return longer and is_fit and not plan.options.is_fresh and has_waiting(before)


def dry_result(options: Options, plan: Plan) -> SweepResult:
    """The result of a dry run, beside its sentences."""
    return SweepResult(
        name=options.name, store=options.store, study=0, objective=plan.fixed["objective"], trials=plan.fixed["trials"]
    )


def _why_anew(changes: list[str]) -> str:
    return f"changed since the last sweep: {'; '.join(changes)}" if changes else "asked for by --fresh"
