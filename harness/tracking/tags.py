"""Every MLflow tag that is written or read, named once. Tags are text; a tag of an experiment says so."""

# What a run is.
KIND = "harness.kind"  # one of the next four
TRIAL_KIND, TRAIN_KIND, CONFIRM, SUMMARY = "trial", "train", "confirm", "summary"
SPEC = "harness.spec"  # the experiment's name; of an experiment: the path of its spec file
SPEC_PATH = "harness.spec_path"  # where the spec file was
SOURCE = "harness.source"  # a digest of the source that is kept with the run
DEMO = "harness.demo"  # "true" or "false"
STUDY = "harness.study"  # of a trial: the id of its study
SWEEP = "harness.sweep"  # of a trial: the number of its study among those of the spec
TRIAL = "harness.trial"  # of a trial: its number in the study
CONFIRMS = "harness.confirms"  # the id of the run that this one repeats with another seed
VALUES = "harness.values"  # of `train`: a digest of its values and start, by which an interrupted run is found
CREATION = "harness.creation"  # a random id: finds a run that was made when the server's answer was lost
STORE = "harness.store"  # the store that made the run: a tracking server may have runs of several

# How it went.
STATUS = "harness.status"  # running, waiting, finished, pruned, diverged, failed or interrupted
REASON = "harness.reason"  # why it ended as it did
LOSSES = "harness.losses"  # how often it lost its worker, and why
NODE = "harness.node"  # the machine of a cluster where it was trained last
REUSED = "harness.reused"  # whether other runs had trained its epochs: none, some or all
REUSED_FROM = "harness.reused_from"  # those runs

# The objective by which it is ranked; on an experiment: by which its runs are ranked.
OBJECTIVE = "harness.objective"
DIRECTION = "harness.direction"  # maximize or minimize

# What determines its numbers.
RECIPE = "harness.recipe"  # a digest
BASE_RECIPE = "harness.base_recipe"  # a digest without the hyperparameters
PRIVATE = "harness.private"  # why no other run shares its epochs, or "no"
REHEARSAL = "harness.rehearsal"  # what was proven of it before it was trained, in a sentence
DEVICE = "harness.device"
PRECISION = "harness.precision"
STEP = "harness.step"  # how a training step is run: in a CUDA graph, or why not
THREADS = "harness.threads"
EPOCHS = "harness.epochs"
BATCH_SIZE = "harness.batch_size"
SEED = "harness.seed"
VERSION = "harness.version."  # followed by the name of a package
OF_SETTINGS = {"epochs": EPOCHS, "batch_size": BATCH_SIZE, "seed": SEED}
HOST = "harness.host"
COMPARABLE = "harness.comparable"  # a digest of code and data: values of runs that share it can be compared
DIRTY = "harness.git.dirty"  # whether there were uncommitted changes: "true" or "false"

# Who looked at the test part.
LOOKS = "harness.test_looks"  # of an experiment: a JSON list
LOOKED = "harness.test_looked"  # of a run: when, and by which command

# Of the run that keeps the report.
BEST = "harness.best"  # the best run's id, or "none"
TOTAL = "harness.total."  # followed by the name of a total

# MLflow's own, which its client does not set by itself.
USER = "mlflow.user"
SOURCE_NAME = "mlflow.source.name"
SOURCE_TYPE = "mlflow.source.type"
COMMIT = "mlflow.source.git.commit"
NOTE = "mlflow.note.content"
EXPERIMENT_KIND = "mlflow.experimentKind"
DATA_CONTEXT = "mlflow.data.context"
SHARED_VIEW = "mlflow.sharedViewState."  # of an experiment; followed by the key of a view


def where(tag: str, value: object) -> str:
    """A filter of MLflow's: the runs whose tag has this value.

    >>> print(where(KIND, TRAIN_KIND))
    tags."harness.kind" = 'train'
    """
    return f"tags.\"{tag}\" = '{value}'"
