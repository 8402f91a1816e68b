"""What the solver is meant to reach, and what this run says about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from rdprune.bench.contenders import OURS, PREPARATION
from rdprune.bench.extras import exponents
from rdprune.bench.instances import MAIN_CURVE
from rdprune.bench.limits import TARGET
from rdprune.bench.many import SHAPE, slowest
from rdprune.bench.solver import Row

#: Growth with the number of options above which it is no longer "slightly above linear".
SLIGHTLY: Final = 1.15


@dataclass(frozen=True, slots=True)
class Verdict:
    """A target, the figure of this run, and whether it is reached.

    Attributes
    ----------
    target, figure : str
    hit : bool or None
        None where a time limit leaves it open.
    """

    target: str
    figure: str
    hit: bool | None


def judge(results: dict[str, Any]) -> list[Verdict]:
    """Judge every target that the sections run say something about.

    Parameters
    ----------
    results : dict
        From section name to its rows or records.
    """
    rows: list[Row] = results.get("contenders", [])
    return [
        *_against_preparation(rows),
        *_certain(rows),
        *_against_peer(rows, "highs", "HiGHS", "ResNet-50", 300),
        *_against_peer(rows, "highs", "HiGHS", "70B", 500),
        *_against_peer(rows, "dp-python", "the pure Python DP", "7B", 10_000),
        *_against_budgets(results.get("budgets", [])),
        *_frontier(results.get("frontier", [])),
        *_growth(results.get("growth", [])),
        *_batch(results.get("batch", [])),
        *_limits(results.get("limits", [])),
    ]


def _against_preparation(rows: list[Row]) -> list[Verdict]:
    """Compare ours with its own preparation: the median, and the slowest seed."""
    cells = {(row.shape, row.curve, row.sparsity, row.contender): row for row in rows}
    pairs = []
    for shape, curve, sparsity in dict.fromkeys(key[:3] for key in cells):
        ours, preparation = (
            cells.get((shape, curve, sparsity, who.name)) for who in (OURS, PREPARATION)
        )
        if ours and preparation:
            pairs.append((ours, preparation))
    if not pairs:
        return []
    found = []
    for word, most, ratios in (
        ("median", 3, [(ours.cpu / prep.cpu, ours) for ours, prep in pairs]),
        (
            "slowest seed",
            100,
            [(max(r.cpu for r in ours.runs) / prep.cpu, ours) for ours, prep in pairs],
        ),
    ):
        largest, where = max(ratios, key=lambda pair: pair[0])
        within = sum(ratio <= most for ratio, _ in ratios)
        found.append(
            Verdict(
                f"{word} of ours <= {most} x its table preparation, every instance",
                f"{within} of {len(ratios)} instances; largest {largest:,.1f} x "
                f"({where.shape}, {where.curve}, {where.sparsity})",
                within == len(ratios),
            )
        )
    return found


def _certain(rows: list[Row]) -> list[Verdict]:
    """Check that all is proved, within the budget, and beaten by nobody."""
    ours = [run for row in rows if row.contender == OURS.name for run in row.runs]
    if not ours:
        return []
    proved = sum(run.proved for run in ours)
    over = sum(run.over > 0 for run in ours)
    beaten = sum(row.beats_us for row in rows)
    return [
        Verdict("ours proved optimal", f"{proved:,} of {len(ours):,} runs", proved == len(ours)),
        Verdict("ours over budget", f"{over:,} of {len(ours):,} runs", over == 0),
        Verdict("somebody within the budget better than ours", f"{beaten:,} runs", beaten == 0),
    ]


def _against_peer(rows: list[Row], name: str, label: str, shape: str, least: int) -> list[Verdict]:
    """Compare with one peer on the main curve of a shape, sparsity by sparsity."""
    found = []
    for row in rows:
        if (row.contender, row.shape, row.curve) != (name, shape, MAIN_CURVE):
            continue
        enough = row.ratio >= least
        sign, stopped = (">= ", f", {row.stopped} stopped") if row.stopped else ("", "")
        found.append(
            Verdict(
                f"{label} >= {least:,} x ours at {shape}, sparsity {row.sparsity}",
                f"{sign}{row.ratio:,.0f} x ({len(row.runs)} runs{stopped})",
                None if row.stopped and not enough else enough,
            )
        )
    return found


def _against_budgets(records: list[dict[str, Any]]) -> list[Verdict]:
    """Compare with HiGHS under two and three budgets: time, and the optimum."""
    found = []
    for record in records:
        least = {2: 30, 3: 10}[len(record["budgets"])]
        shares = ", ".join(f"{name} {share:.0%}" for name, share in record["budgets"].items())
        sound = record["proved"] == record["runs"] and not record["better"]
        open_still = sound and record["stopped"] > 0
        others = f", {record['over']} over budget, {record['stopped']} stopped"
        enough, sign = record["ratio"] >= least, ">= " if record["stopped"] else ""
        found += [
            Verdict(
                f"HiGHS >= {least} x ours under {shares}",
                f"{sign}{record['ratio']:,.1f} x ({record['runs']} runs)",
                None if record["stopped"] and not enough else enough,
            ),
            Verdict(
                "  proved, and the same optimum as HiGHS",
                f"proved {record['proved']}, same {record['same']}{others} of {record['runs']}",
                None if open_still else sound,
            ),
        ]
    return found


def _frontier(records: list[dict[str, Any]]) -> list[Verdict]:
    return [
        Verdict(
            f"frontier of {record['points']} points <= 15 x one solve at {record['shape']}",
            f"{record['in_solves']:,.1f} x ({record['runs']} runs)",
            record["in_solves"] <= 15,
        )
        for record in records
        if record["shape"] == "ResNet-50"
    ]


def _growth(points: list[dict[str, Any]]) -> list[Verdict]:
    if not points:
        return []
    fitted = exponents(points, "median")
    return [
        Verdict(
            f"time grows with layers x levels at most slightly above linear (<= {SLIGHTLY})",
            ", ".join(f"{name} ^ {power:.2f}" for name, power in fitted.items()),
            fitted["options"] <= SLIGHTLY,
        )
    ]


def _batch(records: list[dict[str, Any]]) -> list[Verdict]:
    """Judge the rate of two threads by processor time, as other programs disturb the clock's."""
    if not records:
        return []
    rate = slowest(records)
    equal = all(record["equal"] == record["instances"] for record in records)
    return [
        Verdict(
            f"allocate_many >= 3,000 solves a second on two cores at {SHAPE}",
            f"{rate:,.0f} by processor time, median over the sparsities",
            rate >= 3000 if max(record["threads"] for record in records) == 2 else None,
        ),
        Verdict("  the same choices as single calls", "all" if equal else "not all", equal),
    ]


def _limits(records: list[dict[str, Any]]) -> list[Verdict]:
    if not records:
        return []
    worst = max(records, key=lambda record: record["max"])
    return [
        Verdict(
            f"Ctrl-C ends every call within {TARGET * 1000:.0f} ms",
            f"{worst['max'] * 1000:,.0f} ms at most ({worst['call']}), "
            f"{sum(record['trials'] for record in records)} trials",
            worst["max"] <= TARGET,
        )
    ]
