"""The parts of a joined pool, each driving one pure machine: messages, links, the sync server, its record on disk."""
