"""Iterative pruning by several methods on one recipe, round by round in one table; resumable."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.table import Table

from rdprune import report
from rdprune.commands.options import Json
from rdprune.console import check_folders, emit
from rdprune_core.files import atomic_write

METHODS: Final = ("rdprune", "lamp", "global_magnitude")
LEVELS: Final = 20
SPARSEST: Final = 0.8**18


@dataclass(frozen=True, slots=True)
class Track:
    """How far a method has come.

    Attributes
    ----------
    method : str
    rounds : list of dict
        The entries of its ``history.json``.
    final : float or None
        Top-1 on all test pictures after the last round; None before.
    """

    method: str
    rounds: list[dict[str, Any]]
    final: float | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """All methods, beside the dense network on all test pictures."""

    recipe: str
    steps: int
    batch: int
    calibration: int
    tested: int
    dense: float
    tracks: list[Track]


def run(
    name: str,
    data: str,
    weights: str | None,
    folder: Path,
    *,
    methods: Sequence[str],
    settings: Mapping[str, Any],
    tested: int,
    seed: int,
    tell: Callable[[str], None],
) -> Outcome:
    """Take every method through round 1, then through round 2, and so on; go on where it stopped.

    Parameters
    ----------
    name : str
        A recipe.
    data, weights : str
        As for `rdprune.recipes.run.run`.
    folder : pathlib.Path
        A run folder for each method, and ``top1.json`` with the figures on all test pictures.
    methods : sequence of str
        As for `rdprune.iterate`; ``"blended"`` does in every round what it does in a single one
        with a fine-tune, ``"rdprune"`` the recipe's distortion alone.
    settings : mapping
        In place of the recipe's.
    tested : int
        Test pictures of the rounds' figures.
    seed : int
        Of measuring and fine-tuning; all methods see the same training batches in a round.
    tell : callable
        Is told of every round that is done.
    """
    from rdprune.levels import falling_levels
    from rdprune.purpose import BLEND
    from rdprune.recipes import run as recipes
    from rdprune.recipes.datasets import open_source
    from rdprune.recipes.recipe import find
    from rdprune.tensorfiles import load_weights_

    recipe = recipes.changed(find(name), **settings)
    if "blended" in methods and recipe.recovery != "batchnorm":
        raise ValueError(f"method 'blended' is for --recovery batchnorm, not {recipe.recovery}")
    source = open_source(recipe, data)
    judge = recipes.Top1(source.tested())

    def dense() -> Any:
        return recipes.network(recipe, source.pixels, weights)

    folder.mkdir(parents=True, exist_ok=True)
    _check_same(folder / "settings.json", {**settings, "tested": tested, "seed": seed})
    figures = folder / "top1.json"
    levels = falling_levels(LEVELS, SPARSEST)
    variants = {"blended": ("rdprune", "nmse", BLEND)}
    whole = _once(figures, "dense", lambda: judge(dense())["top1"])
    for number in range(1, recipe.rounds + 1):
        for method in methods:
            ours, distortion, blend = variants.get(method, (method, None, 0.0))
            done = recipes.run(
                recipes.changed(recipe, rounds=number, distortion=distortion), source,
                folder / method, weights=weights, method=ours, blend=blend, levels=levels,
                tested=tested, seed=seed, progress=False,
            )[-1]  # fmt: skip
            tell(
                f"round {number}, {method}: sparsity {report.share(done.sparsity)}, "
                f"top-1 {report.share(done.tuned['top1'])}, {done.seconds:.0f} s"
            )
    model = dense()
    for method in methods:
        last = folder / method / f"round-{recipe.rounds:03d}" / "weights.safetensors"
        load_weights_(last, model)
        _once(figures, f"{method} {recipe.rounds}", lambda: judge(model)["top1"])
    return Outcome(
        recipe.name, recipe.steps, recipe.batch, recipe.calibration, tested, whole,
        tracks(folder, methods, recipe.rounds),
    )  # fmt: skip


def tracks(folder: Path, methods: Sequence[str], rounds: int) -> list[Track]:
    """Read how far each method has come."""
    from dataclasses import asdict

    from rdprune.runfolder import read_history

    known = _figures(folder / "top1.json")
    found = []
    for method in methods:
        file = folder / method / "history.json"
        history = read_history(file)[1] if file.exists() else []
        entries = [asdict(done) for done in history[:rounds]]
        found.append(Track(method, entries, known.get(f"{method} {rounds}")))
    return found


def _check_same(path: Path, settings: Mapping[str, Any]) -> None:
    """Write what a run depends on, or refuse a folder of a run with others; rounds may grow."""
    ours = {name: value for name, value in settings.items() if name != "rounds"}
    if not path.exists():
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(ours, indent=1) + "\n", encoding="utf-8")
    for name, theirs in json.loads(path.read_text(encoding="utf-8")).items():
        if ours.get(name) != theirs:
            raise ValueError(
                f"{path.parent} holds a run with {name} {theirs}, this one has {ours.get(name)}: "
                "take another folder"
            )


def _figures(path: Path) -> dict[str, float]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def _once(path: Path, name: str, make: Callable[[], float]) -> float:
    """Return a figure of the file, made and written if it is not there."""
    known = _figures(path)
    if name not in known:
        known[name] = make()
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    return known[name]


def show(outcome: Outcome) -> Table:
    """Return one row a round; of each method top-1 before and after fine-tuning."""
    heads = [f"{track.method}{end}" for track in outcome.tracks for end in ("", ", tuned")]
    grid = report.new_grid("round", "sparsity", *heads)
    for number in range(max(len(track.rounds) for track in outcome.tracks)):
        row = [track.rounds[number] if number < len(track.rounds) else None
               for track in outcome.tracks]  # fmt: skip
        some = next(entry for entry in row if entry is not None)
        cells = [
            report.share(None if entry is None else entry[when].get("top1"))
            for entry in row
            for when in ("pruned", "tuned")
        ]
        grid.add_row(str(number + 1), report.share(some["target"]), *cells)
    final = [c for t in outcome.tracks for c in ("", report.share(t.final, 2))]
    grid.add_section()
    grid.add_row("all test pictures", "", *final)
    grid.caption = (
        f"{outcome.recipe}: top-1; dense {report.share(outcome.dense, 2)} on all test pictures, "
        f"rounds on {outcome.tested:,}; each round {outcome.steps} steps of {outcome.batch}, "
        f"distortions on {outcome.calibration} pictures"
    )
    return grid


def iterative(
    folder: Annotated[Path, typer.Option(help="Run folder; a stopped run goes on there.")],
    recipe: Annotated[str, typer.Option(help="A recipe.")] = "cifar10-resnet20",
    data: Annotated[str | None, typer.Option(help="Folder of the pictures [RDPRUNE_DATA].")] = None,
    weights: Annotated[str | None, typer.Option(help="Dense weights, .safetensors.")] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="As for iterate, or blended; repeatable [rdprune, lamp, global_magnitude]."
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; 14 reach a sparsity of 95.6 %.")] = 14,
    steps: Annotated[int, typer.Option(min=1, help="Of each round's fine-tune.")] = 30,
    batch: Annotated[int, typer.Option(min=1, help="Pictures in a step.")] = 64,
    samples: Annotated[int, typer.Option(min=1, help="Calibration pictures.")] = 128,
    recovery: Annotated[str, typer.Option(help="State measured.")] = "batchnorm",
    tested: Annotated[int, typer.Option(min=1, help="Test pictures of a round's figures.")] = 2000,
    seed: Annotated[int, typer.Option(help="Of measuring and fine-tuning.")] = 0,
    json: Json = None,
) -> None:
    """Prune a recipe's network in rounds by several methods, with the same fine-tune for all."""
    from dataclasses import asdict

    from rdprune.recipes import cifar10

    check_folders(json)
    outcome = run(
        recipe, str(cifar10.folder()) if data is None else data, weights, folder,
        methods=method or METHODS, tested=tested, seed=seed,
        settings={
            "rounds": rounds, "steps": steps, "batch": batch, "calibration": samples,
            "recovery": recovery,
        },
        tell=lambda text: typer.echo(text, err=True),
    )  # fmt: skip
    emit(json, asdict(outcome), lambda out: out.print(show(outcome)))
