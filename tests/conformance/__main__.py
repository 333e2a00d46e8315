"""python -m conformance [MODULE...]: run the modules (default: all) and print the table."""

from __future__ import annotations

import sys
import time

from conformance import suite


def main() -> int:
    """Returns 1 if anything differs from exceptions.toml."""
    names = sys.argv[1:] or [name for name in suite.MODULES if suite.available(name)]
    began = time.monotonic()
    results = []
    for name in names:
        print(f"{name}...", end=" ", flush=True, file=sys.stderr)
        results.append(suite.run(name))
    print(file=sys.stderr)
    print(f"CPython {sys.version.split()[0]}'s asyncio tests on noria, {time.monotonic() - began:.0f} s\n")
    print(suite.table(results))
    surprises = [surprise for result in results for surprise in result.surprises()]
    for surprise in surprises:
        print(f"\n{surprise}")
    return 1 if surprises else 0


if __name__ == "__main__":
    sys.exit(main())
