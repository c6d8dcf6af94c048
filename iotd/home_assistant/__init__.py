"""Home Assistant learns of this device by itself: its MQTT discovery, and what it shows without being asked.

`discovery` makes the announcement of the configuration, `announcing` judges when it is to be said; `part` says it, and
the state of the device that its own entities read. All of it runs on the main thread. What a message's `entities` are
stands in `publish`, as plain data; that nothing is left once the section goes is the ledger's doing (`transient`).
"""
