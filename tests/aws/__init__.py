"""A local stand-in for AWS IoT Core: mosquitto, a Device Shadow service on the reserved topics, and before them a gate
with mutual TLS that does what AWS does and mosquitto does not: policies, quotas, reserved topics.

What the public sources leave open is a field of `document.Rules`, or is called unconfirmed where it is decided.
"""
