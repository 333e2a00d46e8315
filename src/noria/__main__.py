"""`python -m noria` is `noria`."""

from noria.cli import leave, main

if __name__ == "__main__":
    leave(main())
