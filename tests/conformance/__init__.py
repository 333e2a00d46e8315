"""CPython's own asyncio tests, run on noria.

Each module of the interpreter's `test.test_asyncio` that says how asyncio behaves runs in a child process (`child`)
with noria's classes in place (`substitution`). `exceptions.toml` names every case that is not run, and why, and
every case that fails because noria is wrong. `test_conformance` is the part pytest runs; `python -m conformance`, from the
directory tests/, prints the table alone.
"""
