"""PyTorch Lightning with Optuna and its MLFlowLogger."""

import logging
from typing import Any

import lightning
import optuna
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import MLFlowLogger
from torch import nn, optim
from work import EPOCHS, LEARNING_RATE, MOMENTUM, STORE, TRACKING, TRIALS, VALUES, build_loaders, build_model, tell


class Classifier(lightning.LightningModule):
    def __init__(self, lr: float, momentum: float) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.model, self.loss = build_model(), nn.CrossEntropyLoss()

    def _step(self, batch: Any, part: str) -> torch.Tensor:
        images, labels = batch
        outputs = self.model(images)
        loss: torch.Tensor = self.loss(outputs, labels)
        accuracy = (outputs.argmax(1) == labels).float().mean()
        values = {f"{part}_loss": loss, f"{part}_accuracy": accuracy}
        self.log_dict(values, on_step=False, on_epoch=True, batch_size=len(labels))
        return loss

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        return self._step(batch, "train")

    def validation_step(self, batch: Any, index: int) -> None:
        self._step(batch, "val")

    def configure_optimizers(self) -> Any:
        optimizer = optim.SGD(
            self.parameters(), lr=self.hparams["lr"], momentum=self.hparams["momentum"], weight_decay=5e-4
        )
        scheduler = optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=2)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val_loss"}}


def objective(trial: optuna.Trial) -> float:
    lr = trial.suggest_float("lr", *LEARNING_RATE, log=True)
    momentum = trial.suggest_float("momentum", *MOMENTUM)
    logger = MLFlowLogger(
        experiment_name="lightning", run_name=f"trial-{trial.number}", tracking_uri=TRACKING, log_model=True
    )
    best = ModelCheckpoint(dirpath=f"{STORE}/{trial.number}", monitor="val_accuracy", mode="max")
    trainer = lightning.Trainer(
        max_epochs=EPOCHS, logger=logger, callbacks=[best], enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, accelerator="auto", devices=1,
    )  # fmt: skip
    trainer.fit(Classifier(lr, momentum), *build_loaders())
    return float(best.best_model_score or 0.0)


def main() -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    lightning.seed_everything(0)
    study = optuna.create_study(
        direction="maximize", storage=f"sqlite:///{STORE}/optuna.db", sampler=optuna.samplers.TPESampler(seed=0)
    )
    for values in VALUES:
        study.enqueue_trial(values)
    study.optimize(objective, n_trials=TRIALS)
    tell([trial.value or 0.0 for trial in study.trials])


if __name__ == "__main__":
    main()
