"""Views of a pool's history for interfaces: entries to show, reading, the live feed, and pages of what is past."""
