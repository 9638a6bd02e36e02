"""Ten real processes and a sync server for as long as one likes, with all that goes wrong; see docs/testing.md."""
