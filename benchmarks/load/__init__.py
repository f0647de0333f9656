"""What the benchmarks share: servers, clients that load them, and the figures of both."""
