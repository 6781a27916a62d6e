"""`python -m cnclip.cli`, the same as the command `cnclip`."""

import sys

from . import main

sys.exit(main())
