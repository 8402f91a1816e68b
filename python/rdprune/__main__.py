"""``python -m rdprune`` is the ``rdprune`` command: what ``torchrun -m rdprune`` starts."""

from __future__ import annotations

from rdprune.cli import main

if __name__ == "__main__":
    main()
