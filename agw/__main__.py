"""`python -m agw` is the `agw` command."""

import sys

from agw.cli import main

sys.exit(main())
