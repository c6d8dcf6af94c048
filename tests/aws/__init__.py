"""A local stand-in for AWS IoT Core: mosquitto with mutual TLS and a Device Shadow service on the reserved topics.

What the public sources leave open is a field of `document.Rules`, or is called unconfirmed where it is decided.
Not imitated: the rate quotas (inject a 429), and what mosquitto itself does otherwise (a stored message reaches
wildcard filters; RETAIN on a `$` topic is taken).
"""
