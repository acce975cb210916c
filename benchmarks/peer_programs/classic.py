"""The classic loop with Optuna and MLflow, as in the tutorials: DataLoader, `.item()` every batch."""

import mlflow
import optuna
import torch
from torch import nn, optim
from work import EPOCHS, LEARNING_RATE, MOMENTUM, STORE, TRACKING, TRIALS, VALUES, build_loaders, build_model, tell


def objective(trial: optuna.Trial) -> float:
    lr = trial.suggest_float("lr", *LEARNING_RATE, log=True)
    momentum = trial.suggest_float("momentum", *MOMENTUM)
    train_loader, validation_loader = build_loaders()
    model = build_model()
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.SGD(model.parameters(), lr=lr, momentum=momentum, weight_decay=5e-4)
    scheduler = optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=2)
    best = 0.0
    with mlflow.start_run(run_name=f"trial-{trial.number}"):
        mlflow.log_params(trial.params)
        for epoch in range(EPOCHS):
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
            mlflow.log_metrics(metrics | {"lr": optimizer.param_groups[0]["lr"]}, step=epoch)
            if metrics["val_accuracy"] > best:
                best = metrics["val_accuracy"]
                path = f"{STORE}/best-{trial.number}.pth.tar"
                torch.save({"state_dict": model.state_dict(), "optimizer": optimizer.state_dict()}, path)
        mlflow.log_artifact(f"{STORE}/best-{trial.number}.pth.tar")
    return best


def main() -> None:
    torch.manual_seed(0)
    mlflow.set_tracking_uri(TRACKING)
    mlflow.set_experiment("classic")
    study = optuna.create_study(
        direction="maximize", storage=f"sqlite:///{STORE}/optuna.db", sampler=optuna.samplers.TPESampler(seed=0)
    )
    for values in VALUES:
        study.enqueue_trial(values)
    study.optimize(objective, n_trials=TRIALS)
    tell([trial.value or 0.0 for trial in study.trials])


if __name__ == "__main__":
    main()
