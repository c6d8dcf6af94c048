"""Messages that come in: each is one line of the log. All of it runs on the main thread."""
