"""Fleet provisioning: its rules, its files, and the device on a real broker."""
