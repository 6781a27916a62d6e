"""`python -m cnclip.modelscope`: runs a program as `python` does, with stand-ins for ModelScope.

    python -m cnclip.modelscope SCRIPT [ARGUMENTS]
    python -m cnclip.modelscope -m MODULE [ARGUMENTS]
    python -m cnclip.modelscope -c CODE [ARGUMENTS]
    python -m cnclip.modelscope - [ARGUMENTS]        the program is read from standard input

SCRIPT is a file, or a directory or zip file with a `__main__.py`. Options of Python itself go
before `-m cnclip.modelscope`.
"""

import sys

from .running import run

if __name__ == "__main__":
    run(sys.argv[1:], __doc__)
