"""Iterative pruning: exact targets, nested masks, exact zeros, and the same masks after a kill."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, load_model
from torch import nn

from rdprune.keeping import SparsityLostError
from rdprune.layers import prunable
from rdprune.masking import load_masks, masks, strip_
from rdprune.measuring import measure
from rdprune.runfolder import RunFolder, read_history
from rdprune.schedule import iterate
from rdprune.settings import METHODS
from rdprune.shapes import geometry, nested_mask
from rdprune_core import Allocation, FileFormatError, RDTable, allocate

SCRIPT = Path(__file__).with_name("killed.py")


@pytest.fixture
def network(network):
    """Return the network, all of it trainable."""
    network.conv1.weight.requires_grad_(True)
    return network


@pytest.fixture
def finetune(batches):
    """Return a callable that trains with momentum and weight decay."""

    def train(model, step):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.1)
        model.train()
        for x, y in batches * 3:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
        return {"loss": loss.item(), "round": step.number}

    return train


def _masks(folder, number):
    return load_masks(folder / f"round-{number:03d}" / "masks.safetensors")


@pytest.mark.parametrize("method", METHODS)
def test_targets_nested_masks_and_zeros(network, batches, finetune, tmp_path, method):
    """Each round meets 1 - (1 - a)^t, its masks lie in the last ones', removed weights are zero."""
    history = iterate(
        network, batches, folder=tmp_path, rounds=3, amount=0.3, finetune=finetune,
        method=method, progress=False,
    )  # fmt: skip
    before = None
    for t, done in enumerate(history, start=1):
        budget = int(Fraction(7, 10) ** t * 174)
        made = _masks(tmp_path, t)
        kept = sum(int(mask.sum()) for mask in made.values())
        assert done.kept == kept <= budget
        assert kept == budget or method == "rdprune"
        assert kept > 0.7 * budget
        assert done.target == pytest.approx(1 - 0.7**t, rel=1e-12)
        assert done.finetune["round"] == t
        if before is not None:
            assert all(bool((before[name] | ~mask).all()) for name, mask in made.items())
        before = made
    for name, layer in prunable(network).items():
        assert not layer.masked
        assert layer.parameter[~before[name]].eq(0).all()
        assert layer.parameter[before[name]].ne(0).all()


def test_one_round_is_one_shot(network, batches, tmp_path):
    """One round keeps the weights that measure, allocate and masks keep by hand."""
    dense = copy.deepcopy(network)
    table = measure(dense, batches, levels=11, progress=False)
    allocation = allocate(table, sparsity=0.6)
    expected = masks(dense, allocation)
    done = iterate(
        network, batches, folder=tmp_path, rounds=1, amount=0.6, levels=11, progress=False
    )[0]
    for name, mask in expected.items():
        weight = dense.get_parameter(name) * mask
        assert network.get_parameter(name).equal(weight)
    assert done.predicted == allocation.distortion
    assert done.sparsity == allocation.sparsity
    with torch.no_grad():
        error = [
            (network.eval()(x).double() - dense.eval()(x).double()).square().mean(1)
            for x, _ in batches
        ]
    assert done.distortion == pytest.approx(float(torch.cat(error).mean()), rel=1e-5)


def test_distortions_are_measured_on_the_current_network(network, batches, finetune, tmp_path):
    """The second round's table is that of the network after the first round's fine-tune."""
    iterate(
        network, batches, folder=tmp_path, rounds=2, amount=0.3, finetune=finetune,
        levels=11, recovery="none", distortion="mse", progress=False,
    )  # fmt: skip
    load_model(network, tmp_path / "round-001" / "weights.safetensors")
    expected = measure(network, batches, levels=11, progress=False)
    found = RDTable.load(tmp_path / "round-002" / "table.npz")
    for ours, theirs in zip(found.distortion, expected.distortion, strict=True):
        assert ours.tolist() == theirs.tolist()


def test_macs_as_the_cost(network, batches, tmp_path):
    """With cost="macs" the schedule counts multiply-accumulates."""
    history = iterate(
        network, batches, folder=tmp_path, rounds=2, amount=0.3, cost="macs", progress=False
    )
    for t, done in enumerate(history, start=1):
        assert 1 - 0.7**t <= done.sparsity <= 1 - 0.7**t + 0.1


def test_rewinding(network, batches, tmp_path):
    """After rewinding, a fine-tune starts from the first weights under the masks."""
    start = {name: value.clone() for name, value in network.state_dict().items()}
    seen = []

    def train(model, step):
        made = _masks(tmp_path, step.number)
        for name, value in start.items():
            current = model.state_dict().get(f"{name}_orig", model.state_dict().get(name))
            assert current.equal(value)
        for name, mask in made.items():
            module = model.get_submodule(name.rpartition(".")[0])
            with torch.no_grad():
                model.eval()(batches[0][0])
            assert module.weight.equal(start[name] * mask)
        for parameter in model.parameters():
            parameter.data.add_(0.01 * torch.randn(parameter.shape))
        seen.append(step.number)

    iterate(
        network, batches, folder=tmp_path, rounds=2, amount=0.3, finetune=train, rewind=True,
        progress=False,
    )  # fmt: skip
    assert seen == [1, 2]


def test_history(network, batches, tmp_path):
    """The history file holds what was returned, with the figures of evaluate, and repair works."""
    before = float(network.bn2.running_mean.mean())

    def evaluate(model):
        return {"mean": float(model.bn2.running_mean.mean())}

    history = iterate(
        network, batches, folder=tmp_path, rounds=2, amount=0.3, evaluate=evaluate,
        repair="batchnorm", recovery="batchnorm", progress=False,
    )  # fmt: skip
    settings, found = read_history(tmp_path / "history.json")
    assert found == history
    assert settings["amount"] == 0.3
    assert history[0].pruned["mean"] == history[0].tuned["mean"]
    assert len({before, history[0].pruned["mean"], history[1].pruned["mean"]}) == 3


def test_a_finished_run_is_not_repeated(network, batches, tmp_path):
    """Asked again it loads the weights; asked for more rounds it goes on."""
    dense = copy.deepcopy(network)
    options = {"folder": tmp_path, "amount": 0.3, "progress": False}
    iterate(network, batches, rounds=2, **options)
    again, more = copy.deepcopy(dense), copy.deepcopy(dense)

    def forward(model, batch):
        raise AssertionError

    assert len(iterate(again, batches, rounds=2, forward=forward, **options)) == 2
    assert all(a.equal(b) for a, b in zip(again.parameters(), network.parameters(), strict=True))
    assert [r.number for r in iterate(more, batches, rounds=3, **options)] == [1, 2, 3]


PLACES = {
    "forward": 30,
    "before masks": 2,
    "after masks": 2,
    "finetune": 5,
    "before weights": 2,
    "after weights": 1,
    "after history": 2,
}


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Return a folder with an uninterrupted run, and one that was killed at each place."""
    folder = tmp_path_factory.mktemp("killed")
    places = [str(word) for pair in PLACES.items() for word in pair]
    done = subprocess.run(
        [sys.executable, SCRIPT, folder, *places],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("place", [*PLACES, "random"])
def test_a_kill_changes_nothing(killed, place):
    """Killed at every step, and several times at random moments, and started again: same bits."""
    whole, resumed = killed / "nowhere", killed / place
    for number in (1, 2, 3):
        for name in ("masks.safetensors", "weights.safetensors"):
            ours, theirs = (load_file(f / f"round-{number:03d}" / name) for f in (whole, resumed))
            assert ours.keys() == theirs.keys()
            for key, value in ours.items():
                assert value.numpy().tobytes() == theirs[key].numpy().tobytes()
    histories = (read_history(folder / "history.json")[1] for folder in (whole, resumed))
    for a, b in zip(*histories, strict=True):
        assert dataclasses.replace(a, seconds=0) == dataclasses.replace(b, seconds=0)


@pytest.mark.parametrize("criterion", ["magnitude", "wanda", "taylor"])
def test_shapes_and_criteria_within_the_last_masks(network, batches, finetune, tmp_path, criterion):
    """Options of all shapes lie in the last round's masks, and their counts are the masks'."""
    shapes = ["2:4", "2x2:0.5", "out:0.5", "in:0.5"]
    history = iterate(
        network, batches, folder=tmp_path, rounds=3, amount=0.3, finetune=finetune,
        levels=[0.2, 0.4, 0.6, 0.8, 0.95], shapes=shapes, criterion=criterion, recovery="none",
        distortion="mse", progress=False,
    )  # fmt: skip
    before, chosen = None, set()
    for t, done in enumerate(history, start=1):
        made = _masks(tmp_path, t)
        allocation = Allocation.load(tmp_path / f"round-{t:03d}" / "allocation.json")
        chosen.update(allocation.options)
        kept = [int(mask.sum()) for mask in made.values()]
        assert kept == allocation.layer_costs["params"].tolist()
        assert done.kept == sum(kept) <= int(Fraction(7, 10) ** t * 174)
        assert before is None or all((before[n] | ~mask).all() for n, mask in made.items())
        before = made
    assert chosen & set(shapes)
    for name, layer in prunable(network).items():
        assert layer.parameter[~before[name]].eq(0).all()


def test_distortions_of_shapes_are_measured_within_the_masks(network, batches, finetune, tmp_path):
    """What a round predicts of one layer pruned alone is what its very mask does."""
    iterate(
        network, batches, folder=tmp_path, rounds=2, amount=0.3, finetune=finetune,
        levels=[0.5, 0.8], shapes=["2:4", "out:0.5"], recovery="none", distortion="mse",
        progress=False,
    )  # fmt: skip
    load_model(network, tmp_path / "round-001" / "weights.safetensors")
    table = RDTable.load(tmp_path / "round-002" / "table.npz")
    within, layers = _masks(tmp_path, 1), prunable(network)
    network.eval()
    with torch.no_grad():
        dense = torch.cat([network(x) for x, _ in batches]).double()
    for row, name in enumerate(table.names):
        values = network.get_parameter(name).detach().abs()
        for column, label in enumerate(table.options[row]):
            mask = nested_mask(label, values, geometry(layers[name]), within[name])
            assert int(mask.sum()) == table.costs["params"][row][column]
            assert (within[name] | ~mask).all()
            pruned = copy.deepcopy(network)
            pruned.get_parameter(name).data.mul_(mask)
            with torch.no_grad():
                error = torch.cat([pruned(x) for x, _ in batches]).double() - dense
            expected = float(error.square().mean())
            assert table.distortion[row][column] == pytest.approx(expected, rel=1e-4, abs=1e-12)


def test_masks_stay_nested_through_zeros(network, batches, tmp_path):
    """A kept weight that training made zero does not let a removed one back in."""

    def zero(model, step):
        for parameter in model.parameters():
            parameter.data.view(-1)[::2] = 0

    iterate(
        network, batches, folder=tmp_path, rounds=2, amount=0.3, finetune=zero,
        method="uniform", progress=False,
    )  # fmt: skip
    first, second = _masks(tmp_path, 1), _masks(tmp_path, 2)
    assert all(bool((first[name] | ~mask).all()) for name, mask in second.items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"amount": 0}, "amount is 0, must be a fraction between 0 and 1"),
        ({"amount": 1}, "amount is 1"),
        ({"rounds": 0}, "rounds is 0, must be an integer of at least 1"),
        ({"rounds": 2.5}, r"rounds is 2\.5, must be an integer"),
        ({"amount": "x"}, "amount is 'x', must be a fraction"),
        ({"repair": "batchnrm"}, "repair is 'batchnrm', must be one of none"),
        ({"recovery": "batchnrm"}, "recovery is 'batchnrm'"),
        ({"objective": "jont"}, "objective is 'jont', must be one of additive, joint"),
        ({"cost": "mac"}, "cost is 'mac', must be one of params, macs"),
        ({"shapes": ["2:1"]}, "option '2:1': N:M needs"),
        ({"levels": "auto"}, "levels is 'auto', which is for one table"),
        ({"levels": "nonsense", "method": "lamp"}, "levels is 'nonsense'"),
        ({"levels": [0, 0.5], "amount": 0.9}, "levels end at 0.5, where 87 of the 174"),
        ({"seed": "1"}, "seed is '1', must be an integer"),
        ({"rounds": 40}, "rounds is 40: at amount 0.2 the last would keep none of the 174"),
        ({"method": "best"}, "method is 'best', must be one of rdprune"),
        ({"method": "lamp", "cost": "macs"}, "method 'lamp' counts params, not 'macs'"),
        ({"finetune": lambda _model: None}, r"finetune is called as finetune\(model, step\)"),
        ({"evaluate": 3}, "evaluate is a int, must be a function"),
        ({"method": "owl", "objective": "joint"}, "method 'owl' has no objective: 'joint' is ours"),
        ({"method": "lamp", "shapes": ["2:4"]}, "method 'lamp' removes single weights"),
        ({"criterion": "size"}, "criterion is 'size'"),
        ({"distortion": "worst"}, "distortion is 'worst'"),
        ({"finetune": lambda model, step: {"loss": float("nan")}}, "finetune returned loss = nan"),
    ],
)
def test_refusals(network, batches, tmp_path, arguments, message):
    """Bad input is named, before anything is measured, and costs neither folder nor model."""
    options = {"folder": tmp_path, "rounds": 1, "progress": False, "levels": 3}
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(ValueError, match=message):
        iterate(network, batches, **{**options, **arguments})
    assert "finetune" in arguments or not list(tmp_path.rglob("*"))
    assert list(network.state_dict()) == list(before)
    assert all(network.state_dict()[name].equal(value) for name, value in before.items())
    assert len(iterate(network, batches, **options)) == 1


def test_repair_needs_something_to_repair(batches, tmp_path):
    """A model without BatchNorm is refused before it is measured."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(batches[0][0][0].numel(), 3))
    for name in ("recovery", "repair"):
        with pytest.raises(ValueError, match=f"{name} is 'batchnorm' but the model has no"):
            iterate(
                model, batches, folder=tmp_path, rounds=1, progress=False, **{name: "batchnorm"}
            )


def test_nothing_of_another_network_is_used(network, batches, tmp_path):
    """What was measured for another network in a folder without a round is measured again."""
    options = {"rounds": 1, "levels": 11, "progress": False}
    other, again = copy.deepcopy(network), copy.deepcopy(network)
    for parameter in other.parameters():
        parameter.data = parameter.data.flip(0)
    with pytest.raises(RuntimeError, match="stop"):
        iterate(other, batches, folder=tmp_path / "run", finetune=_stop, **options)
    assert (tmp_path / "run" / "round-001" / "table.npz").exists()
    iterate(network, batches, folder=tmp_path / "run", **options)
    iterate(again, batches, folder=tmp_path / "fresh", **options)
    found, expected = (
        RDTable.load(tmp_path / name / "round-001" / "table.npz") for name in ("run", "fresh")
    )
    assert all(
        a.tobytes() == b.tobytes()
        for a, b in zip(found.distortion, expected.distortion, strict=True)
    )
    assert network.conv1.weight.equal(again.conv1.weight)


def _stop(_model, _step):
    raise RuntimeError("stop")


def test_a_folder_that_lost_its_history(network, batches, tmp_path):
    """Rounds without one are refused, whoever's they are, and stay."""
    iterate(network, batches, folder=tmp_path, rounds=1, levels=3, progress=False)
    (tmp_path / "history.json").unlink()
    weights = (tmp_path / "round-001" / "weights.safetensors").read_bytes()
    with pytest.raises(ValueError, match=r"holds round-001 of a run but no history\.json"):
        iterate(network, batches, folder=tmp_path, rounds=1, levels=3, progress=False)
    assert (tmp_path / "round-001" / "weights.safetensors").read_bytes() == weights


def test_a_fine_tune_that_diverges(network, batches, tmp_path):
    """NaN is called so, not lost zeros."""

    def diverge(model, _step):
        model.conv1.weight_orig.data.fill_(torch.nan)

    with pytest.raises(ValueError, match=r"round 1: after fine-tuning \d+ values of 'conv1"):
        iterate(
            network, batches, folder=tmp_path, rounds=1, levels=3, finetune=diverge, progress=False
        )
    assert all(parameter.isfinite().all() for parameter in network.parameters())


def test_the_dense_figures(network, batches, tmp_path):
    """`evaluate` judges the dense model too, once; the history file has what it says."""
    judged = []

    def evaluate(model):
        judged.append(float(model.conv1.weight.detach().abs().sum()))
        return {"sum": judged[-1]}

    options = {"folder": tmp_path, "levels": 3, "evaluate": evaluate, "progress": False}
    again = copy.deepcopy(network)
    iterate(network, batches, rounds=1, **options)
    assert len(judged) == 2  # dense and pruned: nothing is tuned
    assert RunFolder(tmp_path).dense == {"sum": judged[0]}
    iterate(again, batches, rounds=2, **options)
    assert len(judged) == 3
    assert RunFolder(tmp_path).dense == {"sum": judged[0]}


def test_the_dense_figures_of_another_model(network, batches, tmp_path):
    """A folder without rounds may be begun anew, and has nothing of the run that failed."""

    def fail(model, step):
        raise RuntimeError("no")

    options = {"folder": tmp_path, "rounds": 1, "levels": 3, "progress": False}
    evaluate = lambda model: {"first": float(model.conv1.weight.detach()[0, 0, 0, 0])}  # noqa: E731
    other = copy.deepcopy(network)
    with torch.no_grad():
        other.conv1.weight += 1
    with pytest.raises(RuntimeError):
        iterate(other, batches, finetune=fail, evaluate=evaluate, **options)
    assert RunFolder(tmp_path).dense == evaluate(other)
    dense = evaluate(network)
    iterate(network, batches, evaluate=evaluate, **options)
    assert RunFolder(tmp_path).dense == dense


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt()])
def test_an_error_gives_the_model_back(network, batches, finetune, tmp_path, error):
    """After one in the second round the same call goes on, with the same result as without it."""
    again, before = copy.deepcopy(network), copy.deepcopy(network.state_dict())
    options = {"rounds": 2, "amount": 0.3, "levels": 11, "progress": False}

    def fail(model, step):
        if step.number == 2:
            model.train()
            raise error
        return finetune(model, step)

    with pytest.raises(type(error)):
        iterate(network, batches, folder=tmp_path / "run", finetune=fail, **options)
    assert list(network.state_dict()) == list(before)
    assert all(network.state_dict()[name].equal(value) for name, value in before.items())
    assert network.training == again.training
    iterate(network, batches, folder=tmp_path / "run", finetune=finetune, **options)
    iterate(again, batches, folder=tmp_path / "fresh", finetune=finetune, **options)
    for name, value in network.state_dict().items():
        assert value.equal(again.state_dict()[name]), name


def test_no_gradient_lives_into_the_next_round(network, batches, tmp_path):
    """A fine-tune that never clears its gradients, and freezes layers, goes on the same."""
    again = copy.deepcopy(network)
    options = {"amount": 0.3, "levels": 11, "blend": 0, "distortion": "mse", "progress": False}

    def train(model, step):
        assert all(parameter.grad is None for parameter in model.parameters())
        assert all(parameter.requires_grad for parameter in model.parameters())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        for x, y in batches:
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        model.bn1.weight.requires_grad_(False)

    iterate(network, batches, folder=tmp_path / "whole", rounds=2, finetune=train, **options)
    dense = copy.deepcopy(again)
    iterate(dense, batches, folder=tmp_path / "parts", rounds=1, finetune=train, **options)
    iterate(again, batches, folder=tmp_path / "parts", rounds=2, finetune=train, **options)
    assert all(
        _masks(tmp_path / "whole", 2)[n].equal(m) for n, m in _masks(tmp_path / "parts", 2).items()
    )
    assert again.conv1.weight.equal(network.conv1.weight)


def test_the_previous_options_are_among_the_levels(network, batches, tmp_path):
    """However a count was rounded, every layer may keep what it keeps."""
    iterate(network, batches, folder=tmp_path, rounds=3, amount=0.13, progress=False)
    for number in (2, 3):
        table = RDTable.load(tmp_path / f"round-{number:03d}" / "table.npz")
        before = Allocation.load(tmp_path / f"round-{number - 1:03d}" / "allocation.json")
        kept = before.layer_costs["params"].tolist()
        least = min(range(len(kept)), key=lambda i: 1 - kept[i] / int(table.dense["params"][i]))
        assert kept[least] in table.costs["params"][least].tolist()


def test_damaged_weights(network, batches, tmp_path):
    """One flipped bit in a round's weights is an error that says how to do the round again."""
    dense, again = copy.deepcopy(network), copy.deepcopy(network)
    options = {"folder": tmp_path, "levels": 3, "amount": 0.3, "progress": False}
    iterate(network, batches, rounds=1, **options)
    path = tmp_path / "round-001" / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    for rounds in (1, 2):
        with pytest.raises(
            FileFormatError, match=r"round 1 .*weights\.safetensors: damaged.*rounds"
        ):
            iterate(dense, batches, rounds=rounds, **options)
    history = json.loads((tmp_path / "history.json").read_text())
    history["rounds"] = []
    (tmp_path / "history.json").write_text(json.dumps(history))
    iterate(again, batches, rounds=1, **options)
    assert again.conv1.weight.equal(network.conv1.weight)


def test_an_identity_of_the_callers(network, batches, tmp_path):
    """A folder with rounds of another fine-tune is refused, also where a setting has its name."""
    again = copy.deepcopy(network)
    options = {"folder": tmp_path, "levels": 3, "progress": False}
    iterate(network, batches, rounds=1, identity={"steps": 1, "seed": 1}, **options)
    with pytest.raises(ValueError, match="a run with steps 1, this one has 2"):
        iterate(again, batches, rounds=2, identity={"steps": 2, "seed": 1}, **options)
    with pytest.raises(ValueError, match="a run with identity seed 1, this one has 2"):
        iterate(again, batches, rounds=2, identity={"steps": 1, "seed": 2}, **options)
    with pytest.raises(ValueError, match="a run with identity seed 1, this one has none"):
        iterate(again, batches, rounds=2, identity={"steps": 1}, **options)


@pytest.mark.parametrize("identity", [{"blend": 0.5}, {"crop": None}, {}])
def test_an_identity_is_compared_whole(network, batches, tmp_path, identity):
    """Also one whose entries a setting, or nothing, would look like."""
    again = copy.deepcopy(network)
    options = {"folder": tmp_path, "rounds": 1, "levels": 3, "progress": False}
    iterate(network, batches, identity=identity, **options)
    with pytest.raises(ValueError, match=r"holds a run with (blend|crop|identity)"):
        iterate(again, batches, **options, **({"blend": 0.5} if "blend" in identity else {}))


def test_a_folder_of_a_sparsity_and_other_rounds(network, batches, tmp_path):
    """The refusal speaks of them, and says how to go on."""
    options = {"folder": tmp_path, "levels": 9, "progress": False}
    again = copy.deepcopy(network)
    iterate(network, batches, rounds=2, sparsity=0.5, **options)
    amount = read_history(tmp_path / "history.json")[0]["amount"]
    with pytest.raises(ValueError, match=r"another sparsity .* 0\.5 in 3 would remove 0\.206299"):
        iterate(copy.deepcopy(again), batches, rounds=3, sparsity=0.5, **options)
    assert len(iterate(again, batches, rounds=3, amount=amount, **options)) == 3


def test_a_long_identity_names_what_differs(network, batches, tmp_path):
    """Entries that are the same are not shown, so that there is room for the others."""
    again = copy.deepcopy(network)
    options = {"folder": tmp_path, "rounds": 1, "levels": 3, "progress": False}
    long = {"name": "a name so long that no more than this much of it would be shown"}
    iterate(network, batches, identity={**long, "steps": 1}, **options)
    with pytest.raises(ValueError, match="a run with steps 1, this one has 2"):
        iterate(again, batches, identity={**long, "steps": 2}, **options)


@pytest.mark.parametrize(("sparsity", "rounds"), [(0.5, 1), (0.5, 3), (0.6, 7), (0.75, 2)])
def test_a_sparsity_in_place_of_the_amount(network, batches, tmp_path, sparsity, rounds):
    """The last round keeps that share, not one weight fewer."""
    done = iterate(
        network, batches, folder=tmp_path, rounds=rounds, sparsity=sparsity, progress=False
    )
    total = sum(layer.parameter.numel() for layer in prunable(network).values())
    assert done[-1].target == pytest.approx(sparsity, abs=1e-12)
    settings, _ = read_history(tmp_path / "history.json")
    assert (1 - Fraction(repr(settings["amount"]))) ** rounds * total >= math.floor(
        (1 - Fraction(repr(sparsity))) * total
    )
    assert done[-1].sparsity >= sparsity


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsity": 80}, "sparsity is 80, must be a fraction between 0 and 1, such as 0.8"),
        ({"sparsity": "0.8"}, "sparsity is '0.8', must be a fraction"),
        ({"sparsity": 0.8, "amount": 0.2}, "amount is 0.2 and sparsity 0.8: give one of them"),
        ({"sparsity": 0.8, "rounds": 0}, "rounds is 0, must be an integer of at least 1"),
    ],
)
def test_bad_sparsity(network, batches, tmp_path, options, message):
    """It is named, and nothing is written."""
    with pytest.raises(ValueError, match=message):
        iterate(network, batches, folder=tmp_path / "run", progress=False, **options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("filled", [False, True])
def test_a_finetune_that_takes_the_masks_off(network, batches, tmp_path, filled):
    """It may, where the zeros stay; where they do not, the lost sparsity is named."""

    def finetune(model, step):
        strip_(model)
        if filled:
            with torch.no_grad():
                for layer in prunable(model).values():
                    layer.parameter.add_(1)

    options = {"folder": tmp_path, "rounds": 1, "levels": 3, "progress": False}
    if filled:
        with pytest.raises(SparsityLostError):
            iterate(network, batches, finetune=finetune, **options)
    else:
        (done,) = iterate(network, batches, finetune=finetune, **options)
        assert done.kept < done.dense


def test_the_folder_is_a_file(network, batches, tmp_path):
    """The error says so."""
    (tmp_path / "run").write_text("mine")
    with pytest.raises(FileExistsError, match=r"the run folder .*run' is a file, must be a fol"):
        iterate(network, batches, folder=tmp_path / "run", progress=False)


def test_another_run_in_the_folder(network, batches, tmp_path):
    """Other settings, another model or other batches than the folder's are refused by name."""
    options = {"folder": tmp_path, "rounds": 1, "progress": False}
    dense = copy.deepcopy(network)
    iterate(network, batches, amount=0.3, **options)
    with pytest.raises(ValueError, match=r"a run with amount 0\.3, this one has 0\.4"):
        iterate(copy.deepcopy(dense), batches, amount=0.4, **options)
    with pytest.raises(ValueError, match="a run with batches"):
        iterate(copy.deepcopy(dense), batches[:1], amount=0.3, **options)
    with pytest.raises(ValueError, match=r"a run with blend none, this one has 0\.5"):
        iterate(copy.deepcopy(dense), batches, amount=0.3, blend=0.5, **options)
    dense.bn1.running_mean += 1
    with pytest.raises(ValueError, match="a run with model"):
        iterate(dense, batches, amount=0.3, **options)


@pytest.mark.parametrize(
    "damage", ["", "{}", '{"format": "x"}', "[]", '{"format": "rdprune-history", "version": 1}']
)
def test_damaged_history(network, batches, tmp_path, damage):
    """A damaged history file is refused."""
    (tmp_path / "history.json").write_text(damage)
    with pytest.raises(FileFormatError, match=r"history\.json: damaged"):
        iterate(network, batches, folder=tmp_path, progress=False)


def test_rounds_must_follow_each_other(network, batches, tmp_path):
    """A history with a hole is refused."""
    iterate(network, batches, folder=tmp_path, rounds=2, progress=False)
    data = json.loads((tmp_path / "history.json").read_text())
    del data["rounds"][0]
    (tmp_path / "history.json").write_text(json.dumps(data))
    with pytest.raises(FileFormatError, match="rounds are missing"):
        read_history(tmp_path / "history.json")
