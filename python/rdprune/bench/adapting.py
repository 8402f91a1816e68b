"""A dense CIFAR network trained on with the JPEG pictures: pruning starts from what ships."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from rdprune import report
from rdprune.bench.experiments import Rate, Tested
from rdprune.commands.options import Json
from rdprune.console import check_folders, emit
from rdprune_core.files import atomic_write


def run(network: str, output: Path, *, steps: int, rate: float, test: int) -> dict[str, Any]:
    """Train a network on and save its weights, plain safetensors under state-dict names.

    Parameters
    ----------
    network : str
        As for `rdprune.bench.subject.open_subject`.
    output : pathlib.Path
    steps : int
        Of 64 pictures.
    rate : float
        Learning rate of the first; it falls by a cosine.
    test : int
        Test pictures.

    Returns
    -------
    dict
        Top-1 ``before`` and ``after``, and what was given.

    Raises
    ------
    ValueError
        If the network is unknown, its data are missing, the file is there already, or training
        diverged.
    """
    from safetensors.torch import save_file

    from rdprune.bench.subject import Protocol, figures, labels_of, one_thread, open_subject
    from rdprune.bench.subject import run as outputs
    from rdprune.progress import progress_bar

    if output.exists():
        raise ValueError(f"--output {output} is there already: remove it, or name another file")
    subject = open_subject(network, 1, test)
    with one_thread(), progress_bar(steps, True) as meter:
        model = subject.tuned(
            subject.model, Protocol(steps=steps, rate=rate), 0, dense=True,
            each=lambda: meter.advance(network),
        )  # fmt: skip
        dense, adapted = (outputs(one, subject.test) for one in (subject.model, model))
    if not all(value.isfinite().all() for value in model.state_dict().values()):
        raise ValueError(f"--rate {rate:g}: training diverged; a lower one may help")
    with atomic_write(output) as temporary:
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, temporary)
    labels = labels_of(subject.test)
    before, after = (figures(dense, logits, labels)["top1"] for logits in (dense, adapted))
    return {
        "network": network, "output": str(output), "steps": steps, "rate": rate, "test": test,
        "before": before, "after": after,
    }  # fmt: skip


def adapt(
    output: Annotated[
        Path,
        typer.Option(help="File to write; resnet56_cifar10_jpeg.safetensors in the data folder."),
    ],
    network: Annotated[str, typer.Option(help="resnet20, resnet32, resnet56; or mnist.")],
    steps: Annotated[int, typer.Option(min=1, help="Of 64 pictures.")] = 1200,
    rate: Rate = 0.02,
    test: Tested = 10_000,
    json: Json = None,
) -> None:
    """Train a dense network on with the pictures that pruning will see, and save it.

    It starts from the weights that the data folder has, adapted ones if they are there.
    """
    check_folders(output, json)
    found = run(network, output, steps=steps, rate=rate, test=test)
    line = (
        f"{network}: top-1 {report.share(found['before'], 2)} before, "
        f"{report.share(found['after'], 2)} after {steps} steps; written to {output}"
    )
    emit(json, found, lambda out: out.print(line))
