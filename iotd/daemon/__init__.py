"""The kernel: the inbox and the turn (`daemon`), the line to the broker (`line`), and the parts it drives (`part`).

`presence`, `subscriptions`, `denial` and `reconnect` are its rules; `world` is what it knows of everything else.
"""
