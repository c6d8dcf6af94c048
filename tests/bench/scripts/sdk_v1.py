"""The same job with the AWS IoT Python SDK v1, which knows no RETAIN: SDK_V1 JOB, the JSON of `ground.Job`."""

# mypy: ignore-errors

import json
import sys
import time
from threading import Semaphore

from AWSIoTPythonSDK.MQTTLib import AWSIoTMQTTClient

job = json.loads(sys.argv[1])
room = Semaphore(job["window"])
sequence = 0


def on_message(client, userdata, message):
    print(json.dumps({"topic": message.topic, "payload": message.payload.decode()}, ensure_ascii=False), flush=True)


def payload():
    global sequence
    sequence += 1
    return json.dumps({**job["payload"], "Timestamp": int(time.time()), "sequence": sequence}, ensure_ascii=False)


client = AWSIoTMQTTClient(job["thing"], cleanSession=False)
client.configureEndpoint(job["host"], job["port"])
client.configureCredentials(job["ca"], job["key"], job["cert"])
client.configureLastWill(job["presence"], json.dumps({"status": "Communication lost"}), 1)
client.configureConnectDisconnectTimeout(10)
client.configureMQTTOperationTimeout(10)
client.connect(60)
for name in job["filters"]:
    client.subscribe(name, 1, on_message)
client.publishAsync(job["presence"], json.dumps({"status": "Connected"}), 1)

due_at = report_at = time.monotonic()
while True:
    if time.monotonic() >= report_at:
        report_at += job["report_s"]
        client.publishAsync(job["report"], json.dumps({"state": {"reported": {"device_no": 0, "state": "ヨシッ👉"}}}), 1)
    if job["every_s"]:
        client.publishAsync(job["topic"], payload(), 1)
        due_at += job["every_s"]
        time.sleep(max(0, due_at - time.monotonic()))
    else:
        room.acquire()
        client.publishAsync(job["topic"], payload(), 1, lambda mid: room.release())
