"""The former name of `syncctl.local.mock_partner`, kept for `python -m syncctl.local.partner`."""

import sys

from syncctl.local.mock_partner import main

if __name__ == "__main__":
    sys.stderr.write("warning: syncctl.local.partner is deprecated; run: python -m syncctl.local.mock_partner\n")
    raise SystemExit(main())
