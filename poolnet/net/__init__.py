"""Trio drivers of the network: UDP socket, QUIC endpoint, path probing, links."""
