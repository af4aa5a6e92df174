"""Make the tables and the plot of a result file, or check those that are there."""

import sys

from harness.report import main

if __name__ == "__main__":
    sys.exit(main())
