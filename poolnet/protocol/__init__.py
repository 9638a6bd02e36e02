"""Sans-IO state machines: rings, mesh, gossip, swarm, probing. Pure."""
