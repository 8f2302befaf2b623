"""paho-mqtt against three nodes: paho_checks.py VERSION TRANSPORT HOST:PORT HOST:PORT HOST:PORT"""

import os
import queue
import socket
import sys

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

LIMIT_S = 15
VERSION = {"3.1": mqtt.MQTTv31, "3.1.1": mqtt.MQTTv311, "5": mqtt.MQTTv5}[sys.argv[1]]
TRANSPORT = sys.argv[2]
NODES = [(host, int(port)) for host, port in (node.rsplit(":", 1) for node in sys.argv[3:6])]
V5 = VERSION == mqtt.MQTTv5
RUN = f"paho-{os.getpid()}-{sys.argv[1]}-{TRANSPORT}".replace(".", "")


class Terminal:
    """A client whose events come in a queue."""

    def __init__(self, name, node, lasting=False, will=None):
        arguments = {"client_id": f"{RUN}-{name}", "protocol": VERSION, "transport": TRANSPORT}
        if not V5:
            arguments["clean_session"] = not lasting
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, **arguments)
        if TRANSPORT == "websockets":
            self.client.ws_set_options(path="/mqtt")
        self.events = {kind: queue.Queue() for kind in ("connected", "message", "subscribed", "published")}
        self.client.on_connect = lambda c, u, flags, reason, p: self.events["connected"].put((flags, reason))
        self.client.on_message = lambda c, u, message: self.events["message"].put(message)
        self.client.on_subscribe = lambda c, u, mid, reasons, p: self.events["subscribed"].put(reasons)
        self.client.on_publish = lambda c, u, mid, reason, p: self.events["published"].put(mid)
        if will:
            self.client.will_set(will, "gone", qos=1)
        options = {}
        if V5:
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = 600 if lasting else 0
            options = {"clean_start": not lasting, "properties": properties}
        self.client.connect(*NODES[node], keepalive=30, **options)
        self.client.loop_start()
        flags, reason = self.next("connected")
        assert not reason.is_failure, reason
        self.present = flags.session_present

    def next(self, kind):
        return self.events[kind].get(timeout=LIMIT_S)

    def subscribe(self, topic, qos):
        self.client.subscribe(topic, qos) if not V5 else self.client.subscribe(topic, options=SubscribeOptions(qos=qos))
        reasons = self.next("subscribed")
        assert reasons[0].value == qos, reasons

    def publish(self, topic, payload, qos, retain=False, properties=None):
        self.client.publish(topic, payload, qos, retain, properties)
        self.next("published")

    def message(self):
        return self.next("message")

    def bye(self):
        self.client.disconnect()
        self.client.loop_stop()

    def cut(self):
        self.client.loop_stop()
        self.client.socket().close() if TRANSPORT == "websockets" else self.client.socket().shutdown(socket.SHUT_RDWR)


def topic(name):
    return f"{RUN}/{name}"


def qos_both_ways():
    here, there = Terminal("here", 0), Terminal("there", 1)
    for one, other, name in ((here, there, "a"), (there, here, "b")):
        other.subscribe(topic(name), 2)
        for qos in (1, 2):
            one.publish(topic(name), f"qos {qos}", qos)
            got = other.message()
            assert (got.payload.decode(), got.qos) == (f"qos {qos}", qos), (got.payload, got.qos)
    here.subscribe(topic("zero"), 0)
    here.publish(topic("zero"), "qos 0", 0)
    assert here.message().payload == b"qos 0"
    here.bye()
    there.bye()


def retained():
    publisher = Terminal("publisher", 0)
    for qos in (0, 1, 2):
        name = topic(f"retained-{qos}")
        publisher.publish(name, "kept", qos, retain=True)
        publisher.publish(topic("behind"), "it", 1)
        later = Terminal("later", 2)
        later.subscribe(name, 2)
        got = later.message()
        assert (got.payload, got.qos, bool(got.retain)) == (b"kept", qos, True)
        publisher.publish(name, "", 1, retain=True)
        later.bye()
    publisher.bye()


def will():
    listener = Terminal("listener", 1)
    listener.subscribe(topic("will"), 1)
    Terminal("dying", 0, will=topic("will")).cut()
    assert listener.message().payload == b"gone"
    listener.bye()


def session():
    terminal = Terminal("moving", 0, lasting=True)
    assert not terminal.present
    terminal.subscribe(topic("session"), 2)
    terminal.bye()
    publisher = Terminal("publisher", 1)
    texts = [f"{n}" for n in range(20)]
    for n, text in enumerate(texts):
        publisher.publish(topic("session"), text, 1 + n % 2)
    terminal = Terminal("moving", 2, lasting=True)
    if VERSION != mqtt.MQTTv31:
        assert terminal.present
    got = [terminal.message().payload.decode() for _ in texts]
    # Order is kept for each QoS: this client shows a QoS 2 message when it is released, behind QoS 1 ones sent after it.
    assert [text for text in got if int(text) % 2 == 0] == texts[0::2], got
    assert [text for text in got if int(text) % 2 == 1] == texts[1::2], got
    terminal.bye()
    publisher.bye()


def shared():
    members = [Terminal(f"member-{node}", node) for node in range(3)]
    for member in members:
        member.subscribe(f"$share/g/{topic('shared')}", 1)
    publisher = Terminal("publisher", 0)
    for n in range(30):
        publisher.publish(topic("shared"), f"{n}", 1)
    got = []
    while len(got) < 30:
        for member in members:
            try:
                got.append(int(member.events["message"].get(timeout=0.05).payload))
            except queue.Empty:
                pass
    assert sorted(got) == list(range(30)), got
    for one in members + [publisher]:
        one.bye()


def properties():
    listener, publisher = Terminal("listener", 0), Terminal("publisher", 1)
    listener.subscribe(topic("properties"), 1)
    sent = Properties(PacketTypes.PUBLISH)
    sent.UserProperty = [("b", "1"), ("a", "2"), ("b", "3")]
    sent.ResponseTopic = "answers"
    sent.CorrelationData = b"42"
    sent.ContentType = "text/plain"
    sent.MessageExpiryInterval = 100
    publisher.publish(topic("properties"), "x", 1, properties=sent)
    got = listener.message().properties
    assert got.UserProperty == sent.UserProperty, got.UserProperty
    assert (got.ResponseTopic, got.CorrelationData, got.ContentType) == ("answers", b"42", "text/plain")
    assert 90 <= got.MessageExpiryInterval <= 100, got.MessageExpiryInterval
    listener.bye()
    publisher.bye()


for check in [qos_both_ways, retained, will, session] + ([shared, properties] if V5 else []):
    check()
    print(f"OK {check.__name__}", flush=True)
# Threads of clients that were cut must not keep the process.
os._exit(0)
