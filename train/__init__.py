"""Training scripts; each is a module to run: `python -m train.texture_mnist --help`."""

import signal
import sys

if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # While a script is imported, Ctrl-C ends it as a shell expects; `command.run` says more.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
