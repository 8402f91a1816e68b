"""Keeping masks in the training loops of others: Lightning and Hugging Face Transformers.

Both libraries are imported when their callback is made.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from rdprune.keeping import MaskKeeper


def lightning_callback(keeper: MaskKeeper) -> Any:
    """Return a Lightning callback that keeps the zeros through a fit.

    They are written back after every training batch, and checked at the end of the fit.

    Parameters
    ----------
    keeper : MaskKeeper
        Of the pruned network itself, which may be an attribute of the LightningModule.

    Returns
    -------
    lightning.pytorch.Callback

    Raises
    ------
    ImportError
        If neither ``lightning`` nor ``pytorch_lightning`` is installed.
    """
    base = _found(("lightning.pytorch", "pytorch_lightning"), "Callback", "pip install lightning")

    class KeepMasks(base):  # type: ignore[misc, valid-type]
        def on_train_start(self, *_: Any) -> None:
            keeper.apply_()

        def on_before_zero_grad(self, *_: Any) -> None:
            keeper.apply_()

        def on_train_batch_end(self, *_: Any) -> None:
            keeper.apply_()

        def on_fit_end(self, *_: Any) -> None:
            keeper.verify()

    return KeepMasks()


def transformers_callback(keeper: MaskKeeper) -> Any:
    """Return a Hugging Face ``TrainerCallback`` that keeps the zeros through training.

    They are written back after every optimiser step, and checked at the end of training.

    Parameters
    ----------
    keeper : MaskKeeper
        Of the pruned network that the ``Trainer`` trains.

    Returns
    -------
    transformers.TrainerCallback

    Raises
    ------
    ImportError
        If ``transformers`` is not installed.
    """
    base = _found(("transformers",), "TrainerCallback", "pip install transformers")

    class KeepMasks(base):  # type: ignore[misc, valid-type]
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            keeper.apply_()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            keeper.apply_()

        def on_train_end(self, *_: Any, **__: Any) -> None:
            keeper.verify()

    return KeepMasks()


def _found(modules: tuple[str, ...], name: str, advice: str) -> Any:
    for module in modules:
        try:
            return getattr(import_module(module), name)
        except ModuleNotFoundError as error:
            if error.name not in (module, module.split(".")[0]):
                raise
    raise ImportError(f"{modules[-1]} is missing: {advice}", name=modules[-1])
