"""The same job with the AWS IoT Device SDK v2 for Python: SDK_V2 JOB, where JOB is the JSON of `ground.Job`."""

# mypy: ignore-errors

import json
import sys
import time
from threading import Semaphore

from awscrt import mqtt
from awsiot import mqtt_connection_builder

job = json.loads(sys.argv[1])
room = Semaphore(job["window"])
sequence = 0


def on_message(topic, payload, dup, qos, retain, **more):
    print(json.dumps({"topic": topic, "payload": payload.decode()}, ensure_ascii=False), flush=True)


def payload():
    global sequence
    sequence += 1
    return json.dumps({**job["payload"], "Timestamp": int(time.time()), "sequence": sequence}, ensure_ascii=False)


connection = mqtt_connection_builder.mtls_from_path(
    endpoint=job["host"], port=job["port"], ca_filepath=job["ca"], cert_filepath=job["cert"],
    pri_key_filepath=job["key"], client_id=job["thing"], clean_session=False, keep_alive_secs=60,
    will=mqtt.Will(job["presence"], mqtt.QoS.AT_LEAST_ONCE, b'{"status": "Communication lost"}', True))
connection.connect().result()
for name in job["filters"]:
    connection.subscribe(name, mqtt.QoS.AT_LEAST_ONCE, on_message)[0].result()
connection.publish(job["presence"], json.dumps({"status": "Connected"}), mqtt.QoS.AT_LEAST_ONCE, True)

due_at = report_at = time.monotonic()
while True:
    if time.monotonic() >= report_at:
        report_at += job["report_s"]
        report = json.dumps({"state": {"reported": {"device_no": 0, "state": "ヨシッ👉"}}})
        connection.publish(job["report"], report, mqtt.QoS.AT_LEAST_ONCE)
    if job["every_s"]:
        connection.publish(job["topic"], payload(), mqtt.QoS.AT_LEAST_ONCE, True)
        due_at += job["every_s"]
        time.sleep(max(0, due_at - time.monotonic()))
    else:
        room.acquire()
        sent, _ = connection.publish(job["topic"], payload(), mqtt.QoS.AT_LEAST_ONCE, True)
        sent.add_done_callback(lambda _: room.release())
