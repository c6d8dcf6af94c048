"""Names the layer that fails: from the configuration up to the daemon, in one command, offline, in seconds.

`rows` is the table of layers and their judgement, pure; `facts` says what is known of each; `looks` gathers it side by
side, each look with an end. `iotd doctor` (in `iotd.cli`) looks itself and reads status.json for what only the daemon
knows.
"""
