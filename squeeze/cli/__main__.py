"""``python -m squeeze.cli``."""

from squeeze.cli.group import main

main()
