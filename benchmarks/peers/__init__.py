"""The race: ours and the peers', in Go and in Python, doing the same jobs in turn. `python -m benchmarks.peers` runs it."""
