"""``python -m poolnet_cli`` is the same as the ``poolnet`` script."""

from poolnet_cli.main import main

main()
