"""Values: what the device measures, and what programs on it tell; each is a placeholder in payloads and reports.

`part` runs on the main thread and reads there what cannot keep it waiting: a file that is no driver's. Whatever may
take its time, a command or a file of /sys, has a thread of its own while it does. The way through it: `part` finds that
a value is due, by its schedule or since a message names it → `sources` reads it → `reading` makes of the bytes what the
section asks for → `standing` says what has turned → who waits for it goes on.
"""
