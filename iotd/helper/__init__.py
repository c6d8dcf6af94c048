"""What runs as root, and nothing else: `python3 -I -m iotd.helper VERB`, started by systemd on a request of iotd's."""
