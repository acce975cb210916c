"""Training loops written by hand, for comparison: one with its data on the device, one with a DataLoader.

They record nothing, save nothing and are not deterministic. Both sum loss and accuracy, train an epoch, then validate.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from images import build_loaders, read_images
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from harness.data.augment import flipped, pad, windows
from harness.data.normalise import mean_and_std, normalised_images


def set_free() -> None:
    """Nothing needs to repeat its bits, and cuDNN may try which of its kernels is fastest."""
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = False, True


class ResidentLoop:
    """Images on the device as uint8; order and augmentation drawn once an epoch; nothing read before its end."""

    def __init__(
        self,
        path: Path,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        device: torch.device,
        precision: str,
        batch_size: int,
    ) -> None:
        arrays = read_images(path)
        self.model, self.optimizer, self.device, self.batch_size = model, optimizer, device, batch_size
        self.half = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(precision)
        mean, std = mean_and_std(arrays["train_images"].permute(0, 3, 1, 2))
        self.mean, self.std = mean.to(device), std.to(device)
        self.padded = pad(arrays["train_images"].to(device))
        self.labels = arrays["train_labels"].to(device)
        self.validation, self.validation_labels = (
            arrays["validation_images"].to(device), arrays["validation_labels"].to(device),
        )  # fmt: skip

    def epoch(self) -> list[float]:
        """Trains an epoch and validates it: loss and accuracy of both."""
        return self.train() + self.validate()

    def train(self) -> list[float]:
        model, optimizer, count = self.model.train(), self.optimizer, len(self.labels)
        order = torch.randperm(count, device=self.device)
        y, x = torch.randint(0, 9, (2, count), device=self.device)
        offsets, flips = y * 40 + x, torch.randint(0, 2, (count,), device=self.device)
        sums = torch.zeros(2, device=self.device)
        for start in range(0, count, self.batch_size):
            span = slice(start, start + self.batch_size)
            images = flipped(windows(self.padded, order[span], offsets[span], 32, 32), flips[span])
            inputs = normalised_images(images, self.mean, self.std).permute(0, 3, 1, 2)
            labels = self.labels[order[span]]
            with torch.autocast(self.device.type, dtype=self.half, enabled=self.half is not None):
                outputs = model(inputs).float()
                loss = cross_entropy(outputs, labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            self._add(sums, loss, outputs, labels)
        return (sums / count).tolist()

    @torch.no_grad()
    def validate(self) -> list[float]:
        model, sums = self.model.eval(), torch.zeros(2, device=self.device)
        for images, labels in self._validation_batches():
            with torch.autocast(self.device.type, dtype=self.half, enabled=self.half is not None):
                outputs = model(images).float()
                loss = cross_entropy(outputs, labels)
            self._add(sums, loss, outputs, labels)
        return (sums / len(self.validation_labels)).tolist()

    def _validation_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(self.validation), self.batch_size):
            span = slice(start, start + self.batch_size)
            inputs = normalised_images(self.validation[span], self.mean, self.std).permute(0, 3, 1, 2)
            yield inputs, self.validation_labels[span]

    @torch.no_grad()
    def _add(self, sums: Tensor, loss: Tensor, outputs: Tensor, labels: Tensor) -> None:
        sums[0] += loss.detach() * len(labels)
        sums[1] += (outputs.argmax(1) == labels).sum()


class LoaderLoop:
    """The loop of the tutorials: images transformed one by one by a DataLoader, `.item()` every batch."""

    def __init__(
        self, path: Path, model: nn.Module, optimizer: Optimizer, *, device: torch.device, workers: int, batch_size: int
    ) -> None:
        self.model, self.optimizer, self.device = model, optimizer, device
        self.train_loader, self.validation_loader = build_loaders(
            path, workers=workers, batch_size=batch_size, pinned=device.type == "cuda"
        )

    def epoch(self) -> list[float]:
        """Trains an epoch and validates it: loss and accuracy of both."""
        self.model.train()
        found: list[float] = []
        for loader, is_training in ((self.train_loader, True), (self.validation_loader, False)):
            self.model.train(is_training)
            loss_sum, correct, count = 0.0, 0.0, 0
            for images, labels in loader:
                images, labels = images.to(self.device), labels.to(self.device)
                with torch.set_grad_enabled(is_training):
                    outputs = self.model(images)
                    loss = cross_entropy(outputs, labels)
                if is_training:
                    self.optimizer.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    self.optimizer.step()
                loss_sum += loss.item() * len(labels)
                correct += (outputs.argmax(1) == labels).sum().item()
                count += len(labels)
            found += [loss_sum / count, correct / count]
        return found
