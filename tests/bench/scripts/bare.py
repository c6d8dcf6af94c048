"""The simplest paho script that does iotd's job: BARE JOB, where JOB is the JSON of `ground.Job`."""

# mypy: ignore-errors

import json
import sys
import time
from threading import Event, Semaphore

import paho.mqtt.client as mqtt

job = json.loads(sys.argv[1])
room = Semaphore(job["window"])
connected = Event()
sequence = 0


def on_connect(client, userdata, flags, code, *rest):
    client.subscribe([(name, 1) for name in job["filters"]])
    connected.set()


def on_publish(client, userdata, mid, *rest):
    if job["backlog"] or not job["every_s"]:
        room.release()


def on_message(client, userdata, message):
    print(json.dumps({"topic": message.topic, "payload": message.payload.decode()}, ensure_ascii=False), flush=True)


def payload():
    global sequence
    sequence += 1
    return json.dumps({**job["payload"], "Timestamp": int(time.time()), "sequence": sequence}, ensure_ascii=False)


versions = [mqtt.CallbackAPIVersion.VERSION2] if hasattr(mqtt, "CallbackAPIVersion") else []
client = mqtt.Client(*versions, client_id=job["thing"], clean_session=False)
client.tls_set(job["ca"], job["cert"], job["key"])
client.will_set(job["presence"], json.dumps({"status": "Communication lost"}), 1, True)
client.max_inflight_messages_set(job["window"])
client.on_connect = on_connect
client.on_publish = on_publish
client.on_message = on_message
places = ["first", *["between"] * (job["backlog"] - 2), "last"] if job["backlog"] else []
backlog = [(f"{job['topic']}/{place}", payload()) for place in places]
client.connect(job["host"], job["port"], 60)
client.loop_start()
if not backlog:
    client.publish(job["presence"], json.dumps({"status": "Connected"}), 1, True)
elif connected.wait():
    for topic, waited in backlog:  # not before: paho sends what it was given before CONNACK without any window
        room.acquire()
        client.publish(topic, waited, 1, job["retain"])

due_at = report_at = time.monotonic()
while True:
    if time.monotonic() >= report_at:
        report_at += job["report_s"]
        client.publish(job["report"], json.dumps({"state": {"reported": {"device_no": 0, "state": "ヨシッ👉"}}}), 1)
    if job["backlog"]:
        time.sleep(1)
    elif job["every_s"]:
        client.publish(job["topic"], payload(), 1, True)
        due_at += job["every_s"]
        time.sleep(max(0, due_at - time.monotonic()))
    else:
        room.acquire()
        client.publish(job["topic"], payload(), 1, True)
