"""`python -m segcam_jax` is `segcam`."""

import sys

from segcam_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
