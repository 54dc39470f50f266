"""`python -m reflective`: the command line."""

import sys

from reflective.cli import main

sys.exit(main())
