"""gmqtt (MQTT 5) against three nodes: gmqtt_checks.py HOST:PORT HOST:PORT HOST:PORT"""

import asyncio
import os
import sys

import gmqtt
from gmqtt.mqtt.constants import MQTTv50

LIMIT_S = 15
NODES = [(host, int(port)) for host, port in (node.rsplit(":", 1) for node in sys.argv[1:4])]
RUN = f"gmqtt-{os.getpid()}"


class Terminal:
    """A client whose messages come in a queue."""

    @classmethod
    async def open(cls, name, node, lasting=False, will=None):
        self = cls()
        will = gmqtt.Message(will, "gone", qos=1) if will else None
        self.client = gmqtt.Client(
            f"{RUN}-{name}", clean_session=not lasting, session_expiry_interval=600 if lasting else 0, will_message=will
        )
        self.client.set_config({"reconnect_retries": 0})
        self.messages, self.subscribed = asyncio.Queue(), asyncio.Queue()
        self.client.on_message = self.on_message
        self.client.on_subscribe = lambda client, mid, qos, properties: self.subscribed.put_nowait(qos)
        await asyncio.wait_for(self.client.connect(*NODES[node], version=MQTTv50), LIMIT_S)
        return self

    def on_message(self, client, topic, payload, qos, properties):
        self.messages.put_nowait((payload.decode(), qos, properties))
        return 0

    async def subscribe(self, topic, qos):
        self.client.subscribe(topic, qos=qos)
        granted = await asyncio.wait_for(self.subscribed.get(), LIMIT_S)
        assert granted[0] == qos, granted

    async def message(self):
        return await asyncio.wait_for(self.messages.get(), LIMIT_S)

    async def bye(self):
        await self.client.disconnect()


def topic(name):
    return f"{RUN}/{name}"


async def qos_both_ways():
    here, there = await Terminal.open("here", 0), await Terminal.open("there", 1)
    for one, other, name in ((here, there, "a"), (there, here, "b")):
        await other.subscribe(topic(name), 2)
        for qos in (1, 2):
            one.client.publish(topic(name), f"qos {qos}", qos=qos)
            got = await other.message()
            assert got[:2] == (f"qos {qos}", qos), got
    await here.subscribe(topic("zero"), 0)
    here.client.publish(topic("zero"), "qos 0", qos=0)
    assert (await here.message())[0] == "qos 0"
    await here.bye()
    await there.bye()


async def retained():
    publisher, behind = await Terminal.open("publisher", 0), await Terminal.open("behind", 1)
    await behind.subscribe(topic("retained"), 1)
    publisher.client.publish(topic("retained"), "kept", qos=1, retain=True)
    await behind.message()
    later = await Terminal.open("later", 2)
    await later.subscribe(topic("retained"), 1)
    got = await later.message()
    assert (got[0], got[2]["retain"]) == ("kept", 1), got
    publisher.client.publish(topic("retained"), "", qos=1, retain=True)
    await behind.message()
    for one in (publisher, behind, later):
        await one.bye()


async def will():
    listener = await Terminal.open("listener", 1)
    await listener.subscribe(topic("will"), 1)
    dying = await Terminal.open("dying", 0, will=topic("will"))
    dying.client._connection._transport.abort()
    assert (await listener.message())[0] == "gone"
    await listener.bye()


async def session():
    terminal = await Terminal.open("moving", 0, lasting=True)
    await terminal.subscribe(topic("session"), 1)
    await terminal.bye()
    publisher, behind = await Terminal.open("publisher", 1), await Terminal.open("behind", 1)
    await behind.subscribe(topic("session"), 1)
    for n in range(20):
        publisher.client.publish(topic("session"), f"{n}", qos=1)
    for _ in range(20):
        await behind.message()
    terminal = await Terminal.open("moving", 2, lasting=True)
    assert [(await terminal.message())[0] for _ in range(20)] == [f"{n}" for n in range(20)]
    for one in (terminal, publisher, behind):
        await one.bye()


async def shared():
    members = [await Terminal.open(f"member-{node}", node) for node in range(3)]
    for member in members:
        await member.subscribe(f"$share/g/{topic('shared')}", 1)
    publisher = await Terminal.open("publisher", 0)
    for n in range(30):
        publisher.client.publish(topic("shared"), f"{n}", qos=1)
    got = []
    while len(got) < 30:
        for member in members:
            try:
                got.append(int((await asyncio.wait_for(member.messages.get(), 0.05))[0]))
            except asyncio.TimeoutError:
                pass
    assert sorted(got) == list(range(30)), got
    for one in members + [publisher]:
        await one.bye()


async def main():
    for check in (qos_both_ways, retained, will, session, shared):
        await asyncio.wait_for(check(), 60)
        print(f"OK {check.__name__}", flush=True)


asyncio.run(main())
os._exit(0)
