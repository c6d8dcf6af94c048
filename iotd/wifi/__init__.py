"""Watches one Wi-Fi interface, and helps it where it is not as it should be.

A thread of its own looks every so often (`nl80211`); the main thread judges what it saw (`recovery`) and leaves a
request for the root helper (`iotd.helper`), or says why not. A reboot is the last step, within a `budget` on the disk.
"""
