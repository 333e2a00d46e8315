"""CPython's own asyncio tests, run on noria.

Each module of the interpreter's `test.test_asyncio` that says how asyncio behaves runs in a child process (`child`)
with noria's classes in place (`substitution`). `exceptions.toml` names every case that is not run or that fails, and
why. On 3.11 and 3.12 what is noria's own has to pass 3.13's tests too (`reference`). `test_conformance` is the part
pytest runs; `python -m conformance`, from the directory tests/, prints the table alone. README.md tells the rest.
"""
