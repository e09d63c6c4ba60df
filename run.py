"""The command line from a clone: `python run.py --config=configs/byol.py:demo`.

An installed package has the same command as `cxr-jax`; both are cxr_jax/__main__.py.
"""

import sys

from cxr_jax.__main__ import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
