"""Trio drivers of disk: home directory, atomic files, SQLite worker, pieces of files."""
