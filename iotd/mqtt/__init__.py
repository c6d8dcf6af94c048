"""MQTT 3.1.1: `session` drives paho on a thread of its own, on a `stream` over TCP and TLS that never blocks.

`addresses` reaches a host, `packets` cuts what comes in into packets, `connection` keeps the deadlines of one line.
`credentials` judges and loads the certificates, `topics` knows the rules of topics, filters and names.
"""
