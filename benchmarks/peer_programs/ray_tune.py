"""Ray Tune with its Optuna search and its MLflow callback: as many trials at once as there are cores."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ray
import torch
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.tune.search.optuna import OptunaSearch
from torch import nn, optim
from work import EPOCHS, LEARNING_RATE, MOMENTUM, STORE, TRACKING, TRIALS, VALUES, build_loaders, build_model, tell


def train(config: dict[str, Any]) -> None:
    torch.manual_seed(0)
    train_loader, validation_loader = build_loaders()
    model, criterion = build_model(), nn.CrossEntropyLoss()
    optimizer = optim.SGD(model.parameters(), lr=config["lr"], momentum=config["momentum"], weight_decay=5e-4)
    scheduler = optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=2)
    for _ in range(EPOCHS):
        model.train()
        loss_sum, correct, count = 0.0, 0, 0
        for images, labels in train_loader:
            optimizer.zero_grad()
            outputs = model(images)
            loss = criterion(outputs, labels)
            loss.backward()
            optimizer.step()
            loss_sum += loss.item() * len(labels)
            correct += (outputs.argmax(1) == labels).sum().item()
            count += len(labels)
        metrics = {"train_loss": loss_sum / count, "train_accuracy": correct / count}
        model.eval()
        loss_sum, correct, count = 0.0, 0, 0
        with torch.no_grad():
            for images, labels in validation_loader:
                outputs = model(images)
                loss_sum += criterion(outputs, labels).item() * len(labels)
                correct += (outputs.argmax(1) == labels).sum().item()
                count += len(labels)
        metrics |= {"val_loss": loss_sum / count, "val_accuracy": correct / count}
        scheduler.step(metrics["val_loss"])
        with TemporaryDirectory() as folder:
            state = {"state_dict": model.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save(state, Path(folder) / "checkpoint.pth.tar")
            tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(folder))


def main() -> None:
    cores = len(os.sched_getaffinity(0))
    ray.init(num_cpus=cores, include_dashboard=False, log_to_driver=False)
    tuner = tune.Tuner(
        tune.with_resources(train, {"cpu": 1}),
        param_space={"lr": tune.loguniform(*LEARNING_RATE), "momentum": tune.uniform(*MOMENTUM)},
        tune_config=tune.TuneConfig(
            search_alg=OptunaSearch(metric="val_accuracy", mode="max", seed=0, points_to_evaluate=VALUES),
            num_samples=TRIALS,
        ),
        run_config=tune.RunConfig(
            name="ray", storage_path=STORE, verbose=0,
            checkpoint_config=tune.CheckpointConfig(num_to_keep=1, checkpoint_score_attribute="val_accuracy"),
            callbacks=[MLflowLoggerCallback(tracking_uri=TRACKING, experiment_name="ray", save_artifact=True)],
        ),
    )  # fmt: skip
    results = tuner.fit()
    tell([float(result.metrics_dataframe["val_accuracy"].max()) for result in results])  # type: ignore[index]


if __name__ == "__main__":
    main()
