"""`python -m cnclip`, the same as the command `cnclip`."""

import sys

from .cli import main

sys.exit(main())
