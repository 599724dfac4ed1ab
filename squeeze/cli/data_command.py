"""``squeeze data``."""

from squeeze.cli.listing import listing_command

command = listing_command("data")
