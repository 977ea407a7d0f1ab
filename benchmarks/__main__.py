"""`python -m benchmarks [NAME …]` runs every `bench_NAME.py` of this folder, or those that are named."""

import sys

from benchmarks.harness import main

sys.exit(main(sys.argv[1:]))
