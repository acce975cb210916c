"""Optuna's TPE with Hyperband around a plain loop, as in the tutorials. Prints seconds and accuracy of each epoch."""

import json
import os
import time

import images
import optuna
import torch
from specs.by_the_minute import ByTheMinute, network
from torch import nn, optim

EPOCHS, SECONDS = ByTheMinute.epochs, float(os.environ["BENCH_SECONDS"])
SPACE = {name: found.grid() for name, found in ByTheMinute.hyperparameters.items()}
STARTED = time.monotonic()


def objective(trial: optuna.Trial) -> float:
    values = {name: trial.suggest_categorical(name, points) for name, points in SPACE.items() if name != "lr"}
    lr = SPACE["lr"][
        trial.suggest_int("lr", 0, len(SPACE["lr"]) - 1)
    ]  # a step of the scale, so that TPE knows its order
    model = network()
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.SGD(model.parameters(), lr=lr, momentum=values["momentum"], weight_decay=5e-4)
    scheduler = optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=values["factor"], patience=values["patience"])
    best = 0.0
    for epoch in range(EPOCHS):
        model.train()
        for inputs, labels in TRAINING:
            optimizer.zero_grad()
            loss = criterion(model(inputs), labels)
            loss.backward()
            optimizer.step()
        model.eval()
        loss_sum, correct, count = 0.0, 0, 0
        with torch.no_grad():
            for inputs, labels in VALIDATION:
                outputs = model(inputs)
                loss_sum += criterion(outputs, labels).item() * len(labels)
                correct += int((outputs.argmax(1) == labels).sum())
                count += len(labels)
        scheduler.step(loss_sum / count)
        best = max(best, correct / count)
        seconds = time.monotonic() - STARTED
        if seconds > SECONDS:
            trial.study.stop()
            raise optuna.TrialPruned
        print(json.dumps([seconds, correct / count]), flush=True)
        trial.report(best, epoch)
        if trial.should_prune():
            raise optuna.TrialPruned
    return best


if __name__ == "__main__":
    torch.manual_seed(int(os.environ["BENCH_SEED"]))
    TRAINING, VALIDATION = images.build_loaders(os.environ["BENCH_IMAGES"], workers=int(os.environ["BENCH_WORKERS"]))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=int(os.environ["BENCH_SEED"])),
        pruner=optuna.pruners.HyperbandPruner(min_resource=1, max_resource=EPOCHS),
    )
    study.optimize(objective)
