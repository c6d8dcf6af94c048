"""What iotd publishes by itself, and everything that waits for its PUBACK.

All of it runs on the main thread. The way through it: `schedule` says what is due → `part` fills its payload → `spool`
keeps it, in flight as a line of `journal`, later in `store` on the disk → `outbox` decides what goes out (limits,
pacing, what may carry RETAIN) → the kernel hands it over → PUBACK → the spool forgets it.
"""
