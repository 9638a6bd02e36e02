"""poolnet: groups of devices that talk and pass files around directly."""
