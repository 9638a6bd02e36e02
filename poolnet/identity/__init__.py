"""Keys, signatures, pool statements and what follows from them. Pure."""
