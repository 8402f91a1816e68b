"""Networks and data for whole runs on public benchmarks."""
