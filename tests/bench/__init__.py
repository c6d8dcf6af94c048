"""What iotd costs beside a bare paho script and AWS's two SDKs, on the same broker: `script/bench`."""
