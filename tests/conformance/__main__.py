"""python -m conformance [MODULE...]: run the modules (default: all) and print the table.

On an interpreter older than 3.13 the modules of 3.13's tests for what is noria's own follow, if there is a 3.13.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from conformance import reference, suite


def main() -> int:
    """Returns 1 if anything differs from exceptions.toml."""
    names = sys.argv[1:] or suite.MODULES
    began = time.monotonic()
    results = []
    jobs: list[tuple[str, Path | None]] = [(name, None) for name in names if suite.available(name)]
    tests = reference.directory() if reference.wanted() else None
    if tests is not None:
        ours = [name for name in reference.SUBJECTS if not reference.standard(name)]
        jobs += [(name, tests) for name in ours if name in names]
    elif reference.wanted():
        print(f"no tests of Python {reference.NAME} on this machine", file=sys.stderr)
    for name, where in jobs:
        print(f"{name}{f' @{reference.NAME}' if where else ''}...", end=" ", flush=True, file=sys.stderr)
        results.append(suite.run(name, where))
    print(file=sys.stderr)
    print(f"CPython {sys.version.split()[0]}'s asyncio tests on noria, {time.monotonic() - began:.0f} s\n")
    print(suite.table(results))
    surprises = [surprise for result in results for surprise in result.surprises()]
    for surprise in surprises:
        print(f"\n{surprise}")
    return 1 if surprises else 0


if __name__ == "__main__":
    sys.exit(main())
