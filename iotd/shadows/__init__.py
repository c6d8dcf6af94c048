"""Shadows: they say how the device is and take orders for it.

`part` runs on the main thread. `conversation` hears the service and `reports` says what it takes, both on the state in
`exchange`; `standing` judges what may be believed. What a shadow has besides is loaded with it: `health` and `checks`
for its checks, `desired` and `orders` for on_delta, `bridge` and its `folder` for files. A check or a command that may
block has a thread of its own while it runs.
In a report come together, the later over the earlier: what other programs' files say, the template, what was done of
what is desired, and under `iotd` what checks and orders have failed.
"""
