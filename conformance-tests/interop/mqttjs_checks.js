// MQTT.js against three nodes: mqttjs_checks.js VERSION TRANSPORT HOST:PORT HOST:PORT HOST:PORT
// NODE_PATH names where the package is installed.
'use strict';

const assert = require('node:assert');
const mqtt = require('mqtt');

const LIMIT_MS = 15_000;
const [version, transport, ...nodes] = process.argv.slice(2);
const V5 = version === '5';
const RUN = `mqttjs-${process.pid}-${version.replaceAll('.', '')}-${transport}`;

const limited = (promise, what) =>
  Promise.race([promise, new Promise((_, fail) => setTimeout(() => fail(new Error(`${what}: nothing came`)), LIMIT_MS).unref())]);

class Terminal {
  static async open(name, node, { lasting = false, will } = {}) {
    const self = new Terminal();
    self.messages = [];
    self.waiting = [];
    self.client = mqtt.connect(transport === 'ws' ? `ws://${nodes[node]}/mqtt` : `mqtt://${nodes[node]}`, {
      clientId: `${RUN}-${name}`,
      protocolVersion: V5 ? 5 : 4,
      clean: !lasting,
      reconnectPeriod: 0,
      will: will && { topic: will, payload: Buffer.from('gone'), qos: 1, retain: false },
      properties: V5 ? { sessionExpiryInterval: lasting ? 600 : 0 } : undefined,
    });
    self.client.on('error', () => {});
    self.client.on('message', (topic, payload, packet) => {
      const message = { text: payload.toString(), qos: packet.qos, retain: packet.retain, properties: packet.properties };
      const waiting = self.waiting.shift();
      if (waiting) waiting(message);
      else self.messages.push(message);
    });
    const connack = await limited(new Promise((done, fail) => {
      self.client.once('connect', done);
      self.client.once('error', fail);
    }), 'CONNACK');
    self.present = connack.sessionPresent;
    return self;
  }

  async subscribe(topic, qos) {
    const [granted] = await limited(this.client.subscribeAsync(topic, { qos }), 'SUBACK');
    assert.strictEqual(granted.qos, qos);
  }

  publish(topic, text, options) {
    return limited(this.client.publishAsync(topic, text, options), 'acknowledgement');
  }

  message() {
    const message = this.messages.shift();
    return message ? Promise.resolve(message) : limited(new Promise((done) => this.waiting.push(done)), 'a message');
  }

  bye() {
    return this.client.endAsync();
  }
}

const topic = (name) => `${RUN}/${name}`;

const checks = {
  async qos_both_ways() {
    const [here, there] = [await Terminal.open('here', 0), await Terminal.open('there', 1)];
    for (const [one, other, name] of [[here, there, 'a'], [there, here, 'b']]) {
      await other.subscribe(topic(name), 2);
      for (const qos of [1, 2]) {
        await one.publish(topic(name), `qos ${qos}`, { qos });
        const got = await other.message();
        assert.deepStrictEqual([got.text, got.qos], [`qos ${qos}`, qos]);
      }
    }
    await here.subscribe(topic('zero'), 0);
    await here.publish(topic('zero'), 'qos 0', { qos: 0 });
    assert.strictEqual((await here.message()).text, 'qos 0');
    await Promise.all([here.bye(), there.bye()]);
  },

  async retained() {
    const publisher = await Terminal.open('publisher', 0);
    for (const qos of [0, 1, 2]) {
      const name = topic(`retained-${qos}`);
      await publisher.publish(name, 'kept', { qos, retain: true });
      await publisher.publish(topic('behind'), 'it', { qos: 1 });
      const later = await Terminal.open('later', 2);
      await later.subscribe(name, 2);
      const got = await later.message();
      assert.deepStrictEqual([got.text, got.qos, got.retain], ['kept', qos, true]);
      await publisher.publish(name, '', { qos: 1, retain: true });
      await later.bye();
    }
    await publisher.bye();
  },

  async will() {
    const listener = await Terminal.open('listener', 1);
    await listener.subscribe(topic('will'), 1);
    const dying = await Terminal.open('dying', 0, { will: topic('will') });
    dying.client.stream.destroy();
    assert.strictEqual((await listener.message()).text, 'gone');
    await listener.bye();
  },

  async session() {
    let terminal = await Terminal.open('moving', 0, { lasting: true });
    assert.ok(!terminal.present);
    await terminal.subscribe(topic('session'), 2);
    await terminal.bye();
    const publisher = await Terminal.open('publisher', 1);
    const texts = Array.from({ length: 20 }, (_, n) => `${n}`);
    for (const [n, text] of texts.entries()) await publisher.publish(topic('session'), text, { qos: 1 + (n % 2) });
    terminal = await Terminal.open('moving', 2, { lasting: true });
    assert.ok(terminal.present);
    const got = [];
    while (got.length < texts.length) got.push((await terminal.message()).text);
    // Order is kept for each QoS: this client shows a QoS 2 message when it is released, behind QoS 1 ones sent after it.
    for (const rest of [0, 1]) {
      const same = (all) => all.filter((text) => Number(text) % 2 === rest);
      assert.deepStrictEqual(same(got), same(texts));
    }
    await Promise.all([terminal.bye(), publisher.bye()]);
  },

  async shared() {
    const members = [];
    for (const node of [0, 1, 2]) {
      const member = await Terminal.open(`member-${node}`, node);
      await member.subscribe(`$share/g/${topic('shared')}`, 1);
      members.push(member);
    }
    const publisher = await Terminal.open('publisher', 0);
    for (let n = 0; n < 30; n += 1) await publisher.publish(topic('shared'), `${n}`, { qos: 1 });
    await limited((async () => {
      while (members.reduce((sum, member) => sum + member.messages.length, 0) < 30) {
        await new Promise((done) => setTimeout(done, 20));
      }
    })(), 'all shared messages');
    const got = members.flatMap((member) => member.messages.map((message) => Number(message.text))).sort((a, b) => a - b);
    assert.deepStrictEqual(got, Array.from({ length: 30 }, (_, n) => n));
    await Promise.all([...members, publisher].map((one) => one.bye()));
  },

  async properties() {
    const [listener, publisher] = [await Terminal.open('listener', 0), await Terminal.open('publisher', 1)];
    await listener.subscribe(topic('properties'), 1);
    const userProperties = { b: ['1', '3'], a: '2' };
    const properties = { userProperties, responseTopic: 'answers', correlationData: Buffer.from('42'), contentType: 'text/plain', messageExpiryInterval: 100 };
    await publisher.publish(topic('properties'), 'x', { qos: 1, properties });
    const got = (await listener.message()).properties;
    assert.deepStrictEqual({ ...got.userProperties }, userProperties);
    assert.deepStrictEqual([got.responseTopic, got.correlationData.toString(), got.contentType], ['answers', '42', 'text/plain']);
    assert.ok(got.messageExpiryInterval >= 90 && got.messageExpiryInterval <= 100);
    await Promise.all([listener.bye(), publisher.bye()]);
  },
};

(async () => {
  for (const name of ['qos_both_ways', 'retained', 'will', 'session', ...(V5 ? ['shared', 'properties'] : [])]) {
    await checks[name]();
    console.log(`OK ${name}`);
  }
  process.exit(0);
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
