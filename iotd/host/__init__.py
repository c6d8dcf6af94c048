"""The host: its files, clocks, facts and commands, systemd, threads, and the log."""
