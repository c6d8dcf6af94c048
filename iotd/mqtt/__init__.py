"""MQTT 3.1.1: `session` drives paho on a thread of its own, on a `stream` over TCP and TLS that never blocks.

`addresses` reaches a host, `proxy` one behind an HTTP proxy, `websocket` frames the bytes where asked to.
`packets` cuts what comes in into packets, `connection` keeps the deadlines of a line, `advice` says why none comes up.
`credentials` judges and loads the certificates and passwords, `topics` knows the rules of topics, filters and names.
"""
