"""Fleet provisioning by claim: how a device of an image that all share gets a certificate and a name of its own.

`attempt.py` goes from a key to an identity, and `steps.py` performs that, step by step; `renewal.py` says when it is
done again; `keeper.py` has each step on the disk before the next is taken. `keys.py` runs the openssl command, on a
thread of its own. While the device has no name, the settings in force are those of the line of the claim
(`section.py`), on which nothing is said but this; once it has one, the configuration is read anew, and the kernel dials
as the thing.
"""
