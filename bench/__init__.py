"""Benchmarks of agw against other proxies; see README.md for the method and `run.sh` for the entry."""
