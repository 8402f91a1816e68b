"""The commands of ``rdprune``, by what they need; `rdprune.cli` gathers them."""
