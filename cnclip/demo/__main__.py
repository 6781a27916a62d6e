"""`python -m cnclip.demo` runs `python -m cnclip demo`."""

import runpy
import sys

sys.argv.insert(1, "demo")
runpy.run_module("cnclip", run_name="__main__", alter_sys=True)
