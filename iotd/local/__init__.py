"""What programs on the device do through iotd: publish, tell values, listen, ask for the status.

The thread `programs` (`door`) waits for the first connection, and only then loads the rest: `server` reads lines on
that thread, `requests` makes each a small frozen value, and many of them at a time come into the inbox. On the main
thread `desk` asks the kernel for what they want, by what `permits` says of it, and hands the answers back to it.
"""
