"""`python -m cm3leon`: the command line, for torchrun too (`cli/main.py`)."""

import sys

from cm3leon.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
