"""Messages that come in: each is one line of the log, and has a command run where its subscription says so.

All of it runs on the main thread, but for a command, which has a thread of its own while it runs.
"""
