"""The poolnet command: a thin layer over the public names of the library."""
