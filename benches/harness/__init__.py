"""The benchmark harness: workloads, the contenders that do them, what was measured, and the tables."""
