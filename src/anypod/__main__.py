"""`python -m anypod` is `anypod`."""

import sys

from anypod.cli import main

if __name__ == "__main__":
    sys.exit(main())
