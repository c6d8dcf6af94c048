"""What iotd publishes by itself, and everything that waits for its PUBACK.

All of it runs on the main thread. The way through it: `schedule` says what is due → `scheduled` fills its payload, or
has it collected in a `batch` → `spool` keeps it, in flight as a line of `journal`, later in `store` on the disk →
`outbox` decides what goes out (limits, pacing, what may carry RETAIN) → `encoding` fills in the time of what has waited
→ the kernel hands it over → PUBACK → the spool forgets it.
"""
