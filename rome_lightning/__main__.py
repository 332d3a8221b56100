"""``python -m rome_lightning``: the same as ``rome``."""

import sys

from rome_lightning.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
