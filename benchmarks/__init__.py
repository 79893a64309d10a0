"""Benchmarks and the tables of the README, which are made from their JSON."""
