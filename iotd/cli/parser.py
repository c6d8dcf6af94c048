"""The parser of the command line; what it cannot print is an error, as with everything that iotd prints."""

import sys
from argparse import ArgumentParser
from typing import Any


class Parser(ArgumentParser):
    """An ArgumentParser whose help and version raise OSError where they cannot be written."""

    def _print_message(self, message: str, file: Any = None) -> None:
        # That of Python 3.13 passes over the error, and the exit status would say that all went well.
        if message:
            (file or sys.stderr).write(message)
