"""One file per workload. Each has TITLE, NEED_BYTES (room on disk, of the full run) and `run(place) -> dict`, whose entries
are described in benches/README.md."""
