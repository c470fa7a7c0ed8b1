"""How fast the package is beside its peers: `make bench` measures and writes docs/benchmarks.md and its figure."""
