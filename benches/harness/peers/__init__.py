"""Contenders that are Python programs: one file each, run in a process of its own (`python -m harness.peers.NAME`).

A peer reads its settings as JSON, warms up, measures, and prints one JSON object: see `harness.child`.
"""
