"""Check recorded histories again: python -m tests.histories FOLDER …"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.histories.history import read_history
from tests.histories.verification import verify


def main(folders: list[str]) -> int:
    """0: each is linearizable; 1: one is not, or was not decided."""
    wrong = 0
    for folder in folders:
        report = verify(read_history(Path(folder)))
        found = [*report.violations, *report.undecided]
        sys.stdout.write(
            f"{folder}: {report.operations} operations on {report.keys} keys, "
            f"{report.overlapping} overlapping, {report.unknown} unknown, {report.steps} steps: {len(found)} not linearizable\n"
        )
        sys.stdout.writelines(f"{each}\n" for each in found)
        wrong += len(found)
    return 1 if wrong or not folders else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
