"""`python -m segrgbx_ros.node` runs the node."""

import sys

from segrgbx_ros.node.process import main

if __name__ == "__main__":
    sys.exit(main())
