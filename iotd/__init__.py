"""iotd keeps a device on AWS IoT Core, or on any MQTT broker, for years without a visit."""

__version__ = "0.1.0"
