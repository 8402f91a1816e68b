"""What all tests share."""

from __future__ import annotations

import importlib.util

if importlib.util.find_spec("torch") is not None:
    import torch

    # With another process busy, two threads can be ten times slower than one.
    torch.set_num_threads(1)
