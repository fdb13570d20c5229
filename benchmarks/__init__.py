"""What is timed, and how it is compared."""

import pathlib

REPO = pathlib.Path(__file__).resolve().parent.parent
