"""Reading budgets: absolute numbers, per cent of the dense cost, or a sparsity."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from numbers import Integral, Real

from rdprune_core.table import RDTable

#: An absolute number, or per cent of the dense cost as a string.
Amount = int | str

#: One amount for the table's first cost, or amounts by cost name.
Budget = Amount | Mapping[str, Amount]


def read_amount(argument: str, amount: Amount, dense: int) -> int:
    """Turn one amount into an absolute integer, rounding per cent down.

    Raises
    ------
    ValueError
        For a float (0.2 could mean kept or removed), a negative number, per cent outside
        0 to 100, or anything else.
    """
    if isinstance(amount, str):
        return int(_per_cent(argument, amount) * dense // 100)
    if isinstance(amount, Integral) and not isinstance(amount, bool):
        if amount < 0:
            raise ValueError(f"{argument} is {amount}; it must not be negative")
        return int(amount)
    if isinstance(amount, Real) and not isinstance(amount, bool):
        raise ValueError(
            f"{argument} is the float {float(amount)!r}, which could mean kept or removed; give "
            'an integer, per cent of the dense cost as "20%", or sparsity='
        )
    raise ValueError(f'{argument} is {amount!r}; give an integer or per cent as "20%"')


def _per_cent(argument: str, amount: str) -> Fraction:
    text = amount.strip()
    try:
        number = Decimal(text.removesuffix("%")) if text.endswith("%") else Decimal("nan")
    except InvalidOperation:
        number = Decimal("nan")
    # As a Fraction, 1e-999999999 would fill the memory; abs() would round it to zero.
    if number.is_nan() or 0 < number.copy_abs() < Decimal("1e-99"):
        raise ValueError(f'{argument} is {amount!r}; write per cent as "20%"')
    if not 0 <= number <= 100:
        raise ValueError(f"{argument} is {amount!r}; per cent must lie between 0% and 100%")
    return Fraction(number) if number else Fraction(0)


def read_budgets(table: RDTable, budget: Budget | None, sparsity: float | None) -> dict[str, int]:
    """Absolute budgets by cost name, in the order of the table's costs.

    Raises
    ------
    ValueError
        If nothing or twice the same cost is bounded, or an amount is wrong.
    """
    if budget is None:
        amounts: dict[str, Amount] = {}
    elif isinstance(budget, Mapping):
        amounts = dict(budget)
    else:
        amounts = {next(iter(table.costs)): budget}
    for name in amounts:
        table.flat_cost(name)
    budgets = {
        name: read_amount(f"budget of {name!r}", amount, int(table.dense[name].sum()))
        for name, amount in amounts.items()
    }
    if sparsity is not None:
        if "params" in budgets:
            raise ValueError("budget and sparsity both bound 'params'; give one of them")
        if "params" not in table.costs:
            raise ValueError(
                f"sparsity bounds the cost 'params', but the table has {', '.join(table.costs)}; "
                "use budget="
            )
        budgets["params"] = _kept(sparsity, int(table.dense["params"].sum()))
    if not budgets:
        raise ValueError("give a budget or a sparsity")
    return {name: budgets[name] for name in table.costs if name in budgets}


def _kept(sparsity: float, dense: int) -> int:
    """Weights that may stay; the decimal fraction as written, so 0.8 removes 4/5 exactly."""
    if isinstance(sparsity, (bool, str)) or not isinstance(sparsity, Real):
        raise ValueError(f"sparsity is {sparsity!r}; it must be a number between 0 and 1")
    if not 0 <= sparsity <= 1:
        raise ValueError(
            f"sparsity is {float(sparsity)!r}; it is the fraction removed, between 0 and 1"
        )
    return int((1 - Fraction(repr(float(sparsity)))) * dense)
