"""The main job on every broker that Debian, PyPI or npm carries: script/test-brokers."""
