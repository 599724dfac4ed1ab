"""``python -m squeeze``: the command line, where its script is not on the path."""

from squeeze.cli import main

if __name__ == "__main__":
    main()
