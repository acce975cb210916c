"""The course of a sweep: which trial is trained next, and until which epoch."""

import math
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from harness.reporting.screen import Screen, shown_values
from harness.search import Hyperparameter, LogUniform, Uniform
from harness.searching.limits import Limits
from harness.searching.plan import Plan
from harness.searching.space import Space
from harness.searching.study import (
    BEFORE,
    EARLIER,
    KNOWN,
    RUN_ID,
    SEEN,
    SENT,
    UNCOUNTED,
    WAITING,
    OpenTrial,
    Study,
    trial_name,
)
from harness.searching.task import Task
from harness.searching.tree import Move, TreeSearch
from harness.tracking.store import RunLog

FIRST = 10  # the first trials are drawn at random: so they are the same, however many train at once


class Course:
    """Asks the study for trials and puts them into an order; `build` makes the task of a trial."""

    def __init__(
        self, study: Study, plan: Plan, limits: Limits, screen: Screen, build: Callable[[OpenTrial], Task]
    ) -> None:
        self._study, self._plan, self._limits, self._screen, self._build = study, plan, limits, screen, build
        self._epochs: int = plan.fixed["epochs"]
        self._sign = -1 if plan.direction == "maximize" else 1
        self._is_tree, self._is_tpe = plan.fixed["sampler"] == "tree", plan.fixed["sampler"] == "tpe"
        at_last = plan.fixed["objective_at"] == "last"
        self._tree = TreeSearch(
            Space(plan.searched, seed=plan.fixed["seed"]),
            epochs=self._epochs,
            seed=plan.fixed["seed"],
            at_last=at_last,
        )
        self._live: dict[int, Task] = {}
        self._asleep: dict[int, OpenTrial | Task] = {}
        self._point: dict[int, int | None] = {}  # by trial
        self._waits_at: dict[int, int] = {}  # by point: the trial that waits there
        self._begun: set[int] = set()  # points that trials have
        self._seen: dict[int, dict[str, Any]] = {}  # by trial: what the search has noted of it
        self._order = 0  # the number of notes so far
        self._best = math.inf  # of the trials that finished
        self._epoch_seconds: float = plan.report.epoch_seconds  # of an epoch of the latest trial
        self._copied: dict[str, Any] | None = None  # values of the newest trial, if they were known
        self.nears_end: Callable[[], None] = lambda: None  # called when a trial has finished and few are left
        self.why = ""  # why the sweep ends, if not because of the number of trials
        self._restore()

    @property
    def trained(self) -> int:
        """Epochs that the trials of this study trained, in all."""
        return sum(int(seen["trained"]) for seen in self._seen.values())

    @property
    def tree(self) -> TreeSearch:
        """What is known of each point."""
        return self._tree

    def tasks(self) -> Iterator[Task | None]:
        """What to train next, as long as there is something; None while that depends on what trains now."""
        is_resuming = False
        for asked in self._study.interrupted():
            is_resuming = True
            self._screen.say(f"{trial_name(asked.number)} was interrupted and goes on")
            yield self._begin(asked, asked.until or self._epochs)
        for asked in self._study.waiting():
            self._sleep(asked.number, asked)
        if self._limits.trials is not None and self._count() >= self._limits.trials and not is_resuming:
            self._screen.say(f"{self._limits.trials} trials are already done; --trials N trains more")
        while True:
            task = self._next()
            if task is not None:
                yield task
            elif self._live:
                yield None
            else:
                return

    def outlook(self) -> list[str]:
        """Lines about the trials that wait, and about whether more training is likely to help."""
        if not self._asleep:
            return []
        rest = sum(self._epochs - self._known(number) for number in self._asleep)
        count = len(self._asleep)
        shown = f"waiting: {count} trial{'s' * (count > 1)}"
        if not rest:
            return [f"{shown}, whose epochs are all known from other trials"]
        return [f"{shown}, {rest} epochs from their ends; a larger limit goes on with the most promising ones"]

    def upload(self, find_log: Callable[[str], RunLog]) -> None:
        """Sends the artifacts of trials that wait to a tracking server, if it does not have them yet."""
        for number, sleeper in self._asleep.items():
            asked, known = _open(sleeper), self._seen[number]["looks"][-1]["epochs"]
            run_id = asked.trial.user_attrs.get(RUN_ID)
            if run_id is not None and asked.trial.user_attrs.get(SENT) != known:
                find_log(run_id).upload()
                asked.note_sent(known)

    def _next(self) -> Task | None:
        """The next task; None if there is none, or none until a running one has ended."""
        if self._limits.trials is not None and self._count() >= self._limits.trials:
            return None
        number, value = self._leader()
        reserved = 0 if number is None or not self._is_tree else self._epochs - self._known(number)
        if self._limits.is_late(reserved=reserved * self._epoch_seconds):
            self._end("the time is up: no further trial is started.")
            return self._finish_leader(None)
        if self._limits.until is not None and self._sign * self._limits.until >= min(self._best, value):
            self._end(f"{self._plan.fixed['objective']} {self._limits.until:g} is reached.")
            return self._finish_leader(None)
        left = self._left()
        if left is not None and left <= reserved:
            self._end(f"the budget of {self._limits.budget} epochs is spent.")
            return self._finish_leader(left)
        room = None if left is None else left - reserved
        return self._choose(room) if self._is_tree else self._ask(room)

    def _choose(self, room: int | None) -> Task | None:
        """What the search over the tree chooses; `room` is the number of epochs that may be trained."""
        to_end = self._limits.trials is not None
        move = self._draw() if to_end and self._study.next_number < FIRST else None
        move = move or self._tree.choose(self._busy(), to_end=to_end)
        if move is None:
            if not self._live:
                self._end(self._exhausted())
            return None
        values, known = self._tree.space.points[move.point], int(self._tree.known[move.point])
        if room is not None and self._waits_at.get(move.point, -1) == self._leader()[0]:
            room += self._epochs - known  # the reserved epochs are for this trial
        until = move.until if room is None else min(move.until, known + room)
        if move.point in self._waits_at:
            return self._wake(self._waits_at[move.point], until)
        return self._begin(self._study.ask(values, until=until), until)

    def _draw(self) -> Move | None:
        """A random point that no trial has; None if there is none."""
        order = list(range(len(self._tree.space)))
        random.Random(f"{self._plan.fixed['seed']}/design").shuffle(order)
        point = next((point for point in order if point not in self._begun), None)
        return None if point is None else Move(point=point, until=self._epochs)

    def _ask(self, room: int | None) -> Task | None:
        """What another sampler proposes. A known point is told to the study; the next proposal is another point."""
        for number in self._asleep:
            return self._wake(number, self._epochs if room is None else min(self._epochs, self._known(number) + room))
        is_grid = self._plan.fixed["sampler"] == "grid"
        while is_grid or not self._tree.is_exhausted:
            near = None
            if self._copied is not None:
                near = self._tree.nearest_open(self._copied, busy=self._busy())
                if near is None and self._live:  # all open points are being trained
                    return None
            asked = self._study.ask(near)
            self._copied = None
            point = self._tree.space.find(asked.values)
            is_copy = (
                point in self._begun if asked.number < FIRST or not self._is_tpe else self._tree.is_known(asked.values)
            )
            if is_grid or point is None or not is_copy or not self._tree.is_known(asked.values):
                known = 0 if point is None else int(self._tree.known[point])
                return self._begin(asked, self._epochs if room is None else min(self._epochs, known + room))
            value = self._sign * float(self._tree.value[point])
            self._study.tell_known(asked, value if math.isfinite(value) else None)
            self._copied = asked.values
            shown = shown_values(asked.values, list(self._plan.searched))
            self._screen.say(f"{trial_name(asked.number)}  {shown}  known: {value:.4g}, nothing to train")
        self._end(self._exhausted())
        return None

    def _finish_leader(self, left: int | None) -> Task | None:
        """The last epochs of a sweep: the waiting trial with the best value is trained to its end, if they suffice."""
        number, value = self._leader(most=left)
        if number is None or not self._is_tree or left == 0 or (left is None and self._ends_better(value)):
            return None
        known = self._known(number)
        return self._wake(number, self._epochs if left is None else min(self._epochs, known + left))

    def _begin(self, asked: OpenTrial, until: int) -> Task:
        task = self._build(asked)
        return self._stage(task, asked, until)

    def _wake(self, number: int, until: int) -> Task:
        sleeper = self._asleep.pop(number)
        self._waits_at = {point: other for point, other in self._waits_at.items() if other != number}
        if isinstance(sleeper, OpenTrial):
            return self._begin(sleeper, until)
        sleeper.wake()
        assert sleeper.trial is not None
        return self._stage(sleeper, sleeper.trial, until)

    def _stage(self, task: Task, asked: OpenTrial, until: int) -> Task:
        if asked.trial.user_attrs.get("until", self._epochs) != until:
            asked.begin_stage(until)
        task.wait_at(until if until < self._epochs else None)
        task.noted = self._note
        self._live[asked.number] = task
        point = self._point[asked.number] = self._tree.space.find(asked.values)
        if point is not None:
            self._begun.add(point)
        return task

    def _sleep(self, number: int, sleeper: OpenTrial | Task) -> None:
        self._asleep[number] = sleeper
        point = self._point[number] = self._tree.space.find(_open(sleeper).values)
        if point is not None:
            self._waits_at[point] = number

    def _note(self, task: Task, outcome: str) -> None:
        """Notes how far a run has come, before the study is told: a kill in between does not note it twice."""
        asked = task.trial
        assert asked is not None
        del self._live[asked.number]
        curve = [self._sign * result.metrics[task.objective] for result in task.results]
        seen = self._seen.get(asked.number, {"looks": [], "shared": [], "trained": 0})
        look = {"order": self._order, "epochs": len(curve), "outcome": outcome}
        if not any({**known, "order": self._order} == look for known in seen["looks"]):
            fixed = {name: value for name, value in task.request.values.items() if name not in asked.values}
            shared = [
                ({name: value for name, value in own.items() if name in asked.values}, epochs)
                for own, epochs in task.shared
                if all(fixed[name] == value for name, value in own.items() if name in fixed)
            ]
            trained = len(task.results) - len(task.reused) - seen.get(BEFORE, 0)
            now = {"looks": [*seen["looks"], look], "shared": shared, "trained": trained}
            self._seen[asked.number] = seen | now
            asked.note_seen(self._seen[asked.number])
            self._take_in(asked.values, curve, shared, outcome)
        own = [result.epoch_seconds for result in task.results if not result.reused]
        self._epoch_seconds = sum(own) / len(own) if own else self._epoch_seconds
        if outcome == WAITING:
            self._sleep(asked.number, task)
        elif outcome == "finished" and task.value is not None and math.isfinite(task.value):
            self._best = min(self._best, self._sign * task.value)
            if self._limits.trials is None or self._count() >= self._limits.trials - 1:
                self.nears_end()

    def _take_in(self, values: Any, curve: list[float], shared: Any, outcome: str) -> None:
        self._order += 1
        self._tree.note(values, curve, shared, is_over=outcome != WAITING)

    def _restore(self) -> None:
        """Notes again what earlier commands noted, in the same order."""
        looks, trials = [], self._study.trials()
        if trials and trials[-1].user_attrs.get("outcome") == KNOWN:
            self._copied = self._study.values_of(trials[-1])
        for trial in trials:
            is_here = trial.user_attrs.get("outcome") != EARLIER
            if is_here and trial.params.keys() >= self._plan.searched.keys():
                point = self._tree.space.find(self._study.values_of(trial))
                self._begun |= set() if point is None else {point}
            if SEEN not in trial.user_attrs:
                continue
            seen = self._seen[trial.number] = trial.user_attrs[SEEN]
            values = self._study.values_of(trial)
            shared = [({name: _tupled(v) for name, v in own.items()}, epochs) for own, epochs in seen["shared"]]
            for look in seen["looks"]:
                reported = trial.intermediate_values
                curve = [self._sign * reported.get(epoch, math.nan) for epoch in range(look["epochs"])]
                looks.append((look["order"], values, curve, shared, look["outcome"]))
            if trial.value is not None and trial.user_attrs.get("outcome") not in UNCOUNTED:
                self._best = min(self._best, self._sign * trial.value)
        for order, values, curve, shared, outcome in sorted(looks, key=lambda look: look[0]):
            self._order = order
            self._take_in(values, curve, shared, outcome)

    def _count(self) -> int:
        """The number of trials that count: those that ended or are running, not those that wait."""
        return self._study.count - len(self._asleep)

    def _left(self) -> int | None:
        """Epochs of the budget that are neither trained nor given to a running trial."""
        if self._limits.budget is None:
            return None
        coming = 0
        for number, task in self._live.items():
            coming += (task.request.until or self._epochs) - self._known(number)
        return int(max(0, self._limits.budget - self.trained - coming))

    def _known(self, number: int) -> int:
        """How many epochs of a trial's path are known."""
        point = self._point[number]
        looks = self._seen.get(number, {"looks": []})["looks"]
        return int(self._tree.known[point] if point is not None else looks[-1]["epochs"] if looks else 0)

    def _busy(self) -> dict[int, int]:
        live = {self._point[number]: task.request.until or self._epochs for number, task in self._live.items()}
        return {point: until for point, until in live.items() if point is not None}

    def _leader(self, most: int | None = None) -> tuple[int | None, float]:
        """The waiting trial with the best value, if that is better than that of every finished one, and the value.

        Of several, one that comes to its end within `most` epochs, if there is such a one.
        """
        better = [point for point in sorted(self._waits_at) if self._tree.value[point] < self._best]
        if most is not None:
            better = [point for point in better if self._epochs - self._tree.known[point] <= most] or better
        if not better:
            return None, self._best
        point = min(better, key=lambda point: self._tree.value[point])
        return self._waits_at[point], float(self._tree.value[point])

    def _ends_better(self, value: float) -> bool:
        """Whether a trial that is trained to its end has this value already, or a better one."""
        ending = [point for point, until in self._busy().items() if until == self._epochs]
        return any(self._tree.value[point] <= value for point in ending)

    def _exhausted(self) -> str:
        if self._tree.space.is_whole:
            return f"the search space is exhausted: all {len(self._tree.space)} configurations are known."
        return "all configurations that were drawn are known."

    def _end(self, why: str) -> None:
        if not self.why:
            self.why = why
            self._screen.say(why)


def at_edge(searched: Mapping[str, Hyperparameter], values: Mapping[str, Any]) -> dict[str, float]:
    """The float values that are the first or the last of their range: beyond it there may be better ones."""
    ranges = {name: found for name, found in searched.items() if isinstance(found, Uniform | LogUniform)}
    return {
        name: values[name]
        for name, found in ranges.items()
        if values[name] in (found.points(2)[0], found.points(2)[-1])
    }


def _tupled(value: Any) -> Any:
    """A value as the spec has it: JSON turns tuples into lists, and no hyperparameter is a list."""
    return tuple(map(_tupled, value)) if isinstance(value, list) else value


def _open(found: OpenTrial | Task) -> OpenTrial:
    trial = found if isinstance(found, OpenTrial) else found.trial
    assert trial is not None
    return trial
