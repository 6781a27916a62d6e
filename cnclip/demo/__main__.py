"""`python -m cnclip.demo` runs `cnclip demo`."""

import sys

from ..cli import main

sys.exit(main(["demo", *sys.argv[1:]]))
