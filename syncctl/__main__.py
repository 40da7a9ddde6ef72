"""`python -m syncctl` is `syncctl`."""

from syncctl.cli import main

main()
