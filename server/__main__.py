"""python -m server: the same as virtualmle serve."""

import sys

from server.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["serve", *sys.argv[1:]]))
