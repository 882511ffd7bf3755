import { fork } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, openSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { Channel, type UnixSocket, connect, socketpair } from 'fdpass'
import { connectBroker } from 'fdpass/broker'
import { connectBus } from 'fdpass/dbus'
import { connectStore } from 'fdpass/store'
import { superserve } from 'fdpass/superserver'
import { type Takeover, takeover } from 'fdpass/takeover'
import { MESSAGE, REQUEST, frame } from '../helpers/channels.ts'
import { isLinux, onlyIf } from '../helpers/conditions.ts'
import { differences, newFolder, readAll } from '../helpers/descriptors.ts'
import { fixturePath } from '../helpers/processes.ts'
import { generator } from '../helpers/random.ts'
import { text } from '../helpers/sockets.ts'

// `npm run fuzz -- protocols --seconds N --seed S` sets these.
const seconds = Number(process.env.FDPASS_FUZZ_SECONDS ?? 0)
const seed = Number(process.env.FDPASS_SEED ?? Math.trunc(Math.random() * 2 ** 31))

/** The rounds of a short run, and those between two looks at the target. */
const ROUNDS = 60
/** How much the memory of the target may grow, in bytes. One message may have 16 MiB, and allocators keep what they had. */
const MAX_GROWTH = 256 * 1024 * 1024

const { below, skewed } = generator(seed)
const chance = (percent: number) => below(100) < percent
const pick = <T>(all: readonly T[]): T => all[below(all.length)]!

/** Values of every type, as JSON. */
const values: readonly (() => string)[] = [
  () => pick(['null', 'true', 'false', '{}', '[]', '""', '0', '-0', '-1', '1.5', '1e999', '-1e999', '1e-999']),
  () => pick(['2147483647', '2147483648', '4294967295', '9007199254740993', '1'.repeat(400)]),
  () => pick([String.raw`"\ud800"`, String.raw`"\udc00\ud800x"`, String.raw`"\u0000"`, String.raw`"\u2028\u001b[2J"`]),
  () =>
    JSON.stringify(pick(['..', '/', '../outside/file', 'file\0', '.', 'a:b', '__proto__', 'constructor', 'toString'])),
  () => JSON.stringify('x'.repeat(skewed(100_000))),
  () =>
    String.raw`{"__proto__":{"ask":"list","allow":true,"cmd":"NODE_HANDLE"},"constructor":{"prototype":[],"name":{"toString":1}}}`,
  () => String.raw`{"toString":1,"valueOf":null,"toJSON":{},"then":"x","length":-1,"name":[]}`,
  () => `${'['.repeat(skewed(20_000))}`,
  () => {
    const depth = skewed(20_000)
    return `${'['.repeat(depth)}${']'.repeat(depth)}`
  },
  () => {
    const depth = skewed(20_000)
    return `${'{"cmd":"NODE_HANDLE","msg":'.repeat(depth)}1${'}'.repeat(depth)}`
  },
  () => `[${Array.from({ length: skewed(5000) }, () => '{}').join()}]`
]

/** Changes one value somewhere in a JSON text, or adds one. */
function mutateJson(json: string): string {
  const fields = [...json.matchAll(/(?<=[:,[])(?:"[^"]*"|-?[\d.]+|true|false|null|\[\]|\{\})(?=[,\]}])/g)]
  const value = pick(values)()
  if (fields.length === 0 || chance(10)) return value
  const { index, 0: old } = pick(fields)
  if (chance(20)) return json.replace('{', () => `{"__proto__":${value},"ask":${value},`)
  return `${json.slice(0, index)}${value}${json.slice(index + old.length)}`
}

/** Flips, cuts, repeats or inserts some bytes. */
function mutateBytes(bytes: Buffer): Buffer {
  const copy = Buffer.from(bytes)
  const place = below(copy.length + 1)
  switch (below(4)) {
    case 0:
      if (place < copy.length) copy[place] = copy[place]! ^ (1 << below(8))
      return copy
    case 1:
      return copy.subarray(0, place)
    case 2:
      return Buffer.concat([copy, copy.subarray(0, place)])
    default:
      return Buffer.concat([copy.subarray(0, place), Buffer.alloc(skewed(64), below(256)), copy.subarray(place)])
  }
}

/** What a hostile peer sends with one call. */
interface Part {
  readonly bytes: Buffer
  readonly fds: number
}

/** A protocol: parts that are nearly right, and a client that is. */
interface Protocol {
  part(): Part
  honest(t: ExecutionContext, path: string, file: number): Promise<void>
}

/** Frames of a channel whose requests are these. */
function framed(requests: readonly string[], honest: Protocol['honest']): Protocol {
  return {
    part() {
      const request = pick(requests)
      const json = chance(70) ? mutateJson(request) : request
      const fds = chance(60) ? 0 : below(4)
      const lies = {
        ...(chance(10) && { length: pick([0, 1, 65_537, 2 ** 31, 2 ** 32 - 1, below(70_000)]) }),
        fds: chance(90) ? fds : pick([1, 253, 254, 4048, 4049, 2 ** 32 - 1]),
        id: pick([0, 1, 1, 2, 2 ** 32 - 1, below(2 ** 32)]),
        format: chance(90) ? 1 : below(256)
      }
      return { bytes: frame(chance(60) ? REQUEST : chance(50) ? MESSAGE : below(8), json, lies), fds }
    },
    honest
  }
}

/** Takes over from the target, which gives a successor 300 ms: on a busy machine that can be too short. */
async function takeOver(path: string): Promise<Takeover> {
  for (;;) {
    try {
      return await takeover({ path })
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ETIMEDOUT') throw error
    }
  }
}

const protocols: Readonly<Record<string, Protocol>> = {
  channel: framed(['{"a":[1,"x",null]}'], async (t, path, file) => {
    using channel = new Channel(await connect(path))
    using answer = await channel.request({ a: 1 }, [file])
    t.deepEqual([answer.value, answer.fds.length], [{ a: 1 }, 1])
  }),
  store: framed(
    [
      '{"ask":"put","name":"x","expires":1000,"mode":384,"group":null,"replace":true}',
      '{"ask":"put","name":"y","expires":null,"mode":384,"group":0,"replace":false}',
      '{"ask":"get","name":"x","remove":false}',
      '{"ask":"get","name":"y","remove":true}',
      '{"ask":"delete","name":"x"}',
      '{"ask":"list"}'
    ],
    async (t, path, file) => {
      using store = await connectStore(path)
      for (const { name } of await store.list()) await store.delete(name)
      await store.put('honest', file)
      for (const fd of await store.get('honest', { remove: true })) fd.closeSync()
      // A hostile peer's last request may be served after its end.
      t.false((await store.list()).some(({ name }) => name === 'honest'))
    }
  ),
  broker: framed(
    [
      '{"operation":"open","path":"file","flags":0,"mode":0}',
      '{"operation":"open","path":"other","flags":66,"mode":384}',
      '{"operation":"connect","address":"unix:/x"}',
      '{"operation":"listen","address":"tcp:127.0.0.1:0","backlog":5,"mode":384}'
    ],
    async (t, path) => {
      using broker = await connectBroker(path)
      using file = await broker.open('file')
      t.is(readAll(file.fd), 'content')
    }
  ),
  takeover: framed(
    [
      '{"ask":"listeners","version":1,"listen":[{"name":"web","source":"unix:/x"}],"connections":true}',
      '{"ask":"listeners","version":1,"service":"","listen":[],"connections":false}',
      '{"ask":"state"}'
    ],
    async (t, path) => {
      const place = await takeOver(path)
      t.is(Buffer.from(place.predecessor!.state).toString(), 'state')
      place.close() // before it is ready: the target goes on
    }
  ),
  connections: {
    part() {
      const head = Buffer.alloc(skewed(1000), 'x')
      const header = Buffer.alloc(4)
      header.writeUInt32BE(chance(80) ? head.length : pick([0, 1, 2 ** 24, 2 ** 24 + 1, 2 ** 32 - 1]))
      return { bytes: Buffer.concat([header, head]), fds: chance(60) ? 1 : below(4) }
    },
    async honest(t, path) {
      using channel = await connect(path)
      const [mine, theirs] = socketpair()
      await channel.send(Buffer.alloc(4), { fds: [theirs] })
      theirs.close()
      t.is(text(await mine.recv()), 'served')
      mine.close()
    }
  },
  ipc: {
    part() {
      const line = pick([
        '{"cmd":"NODE_HANDLE","type":"net.Socket","msg":{"a":[1]}}',
        '{"cmd":"NODE_HANDLE_ACK"}',
        '{"cmd":"NODE_HANDLE_NACK","type":"x"}',
        '{"cmd":"NODE_HANDLE","type":"dgram.Socket","dgramType":"udp4","msg":null}',
        '{"cmd":"NODE_SOCKET_GET_COUNT","key":"x"}',
        '"text"'
      ])
      return { bytes: Buffer.from(`${chance(70) ? mutateJson(line) : line}\n`), fds: chance(60) ? 0 : below(4) }
    },
    async honest(t, path) {
      using channel = await connect(path)
      await channel.send('"hello"\n')
      t.is(text(await channel.recv()), '{"message":"hello"}\n')
    }
  }
}

/** Behaves as a hostile peer for one connection. */
async function attack(socket: UnixSocket, protocol: Protocol, file: number): Promise<void> {
  // Not `socket` itself: who holds a descriptor of the other end of a connection never sees its end.
  const [pair, other] = socketpair()
  for (let i = 1 + skewed(30); i > 0; i--) {
    const { bytes, fds } = protocol.part()
    const sent = chance(30) ? mutateBytes(bytes) : bytes
    const cut = chance(30) ? 1 + below(Math.max(sent.length - 1, 1)) : sent.length
    const source = pick([file, file, pair])
    for (const [index, part] of [sent.subarray(0, cut), sent.subarray(cut)].entries()) {
      if (part.length === 0) continue
      // Not awaited: the target may read nothing more.
      socket.send(part, { fds: index === 0 ? Array<typeof source>(fds).fill(source) : [] }).catch(() => {})
    }
    if (chance(5)) socket.shutdown(pick(['read', 'write', 'both'] as const))
    if (chance(20)) await new Promise(setImmediate)
    if (chance(10)) socket.recv().then((message) => message?.close(), () => {}) // prettier-ignore
  }
  if (chance(50)) await new Promise(setImmediate)
  pair.close()
  other.close()
}

onlyIf(
  isLinux,
  'needs Linux',
  test.serial
)('hostile peers of every protocol end nothing, leave nothing, and keep nobody from being served [S263]', async (t) => {
  t.log(`seed ${seed}`)
  t.timeout((seconds + 300) * 1000)
  const folder = newFolder()
  const target = fork(fixturePath('fuzz'), [folder], { execArgv: [...process.execArgv, '--expose-gc'] })
  t.teardown(() => target.kill('SIGKILL'))
  const ended = once(target, 'exit').then(([code, signal]) => {
    throw new Error(`The target has ended: ${code ?? signal}`)
  })
  ended.catch(() => {})
  const answer = () => Promise.race([ended, new Promise<unknown>((resolve) => target.once('message', resolve))])
  const held = () => {
    target.send('?')
    return answer() as Promise<{ fds: Record<string, number>; rss: number }>
  }
  await answer()
  const file = openSync(fixturePath('fuzz'), 'r')
  t.teardown(() => closeSync(file))
  const names = Object.keys(protocols)
  for (const name of names) await protocols[name]!.honest(t, join(folder, name), file)
  // What is opened at the first use is there now; what a client left is closed at a later turn.
  let before = await held()
  for (let same = 0; same < 5; same++) {
    const again = await held()
    if (differences(again.fds, before.fds).length > 0) same = 0
    before = again
  }

  // Messages that nobody receives must not hide the end of their sender.
  for (const name of ['broker', 'store', 'takeover']) {
    using peer = await connect(join(folder, name))
    const message = frame(MESSAGE, '{}', { fds: 1, format: 1 })
    for (let i = 0; i < 300; i++) peer.send(message, { fds: [file] }).catch(() => {})
  }

  const end = performance.now() + seconds * 1000
  for (let round = 0; round < ROUNDS || performance.now() < end; round++) {
    const name = names[round % names.length]!
    const protocol = protocols[name]!
    const peers = await Promise.all(Array.from({ length: 1 + below(4) }, () => connect(join(folder, name))))
    await Promise.all(peers.map((peer) => attack(peer, protocol, file)))
    for (const peer of peers) peer.close()
    await Promise.race([ended, protocol.honest(t, join(folder, name), file)])
  }
  let after = await held()
  for (let tries = 0; differences(after.fds, before.fds).length > 0 && tries < 100; tries++) {
    await new Promise((resolve) => setTimeout(resolve, 100))
    // Deletes what requests of the last rounds have put into the store.
    await protocols.store!.honest(t, join(folder, 'store'), file)
    after = await held()
  }
  t.deepEqual(differences(after.fds, before.fds), [])
  t.true(after.rss < before.rss + MAX_GROWTH, `${after.rss} bytes instead of ${before.rss}`)
})

const codes = /^ERR_(?:INVALID_ARG_TYPE|INVALID_ARG_VALUE|OUT_OF_RANGE)$/

onlyIf(
  isLinux,
  'needs Linux',
  test.serial
)(
  'a configuration or a D-Bus address of any content is refused by an error that names its argument [S264]',
  async (t) => {
    t.log(`seed ${seed}`)
    const configuration = join(newFolder(), 'services.json')
    const right = '{"services":{"a":{"listen":["unix:/nowhere/x"],"command":["/bin/cat"],"mode":"nowait","env":{"A":"b"},"rlimits":{"nofile":[1,2]},"maxSpawns":1},"b":{"listen":"tcp:127.0.0.1:0","module":"x.mjs","workers":1,"user":0,"groups":[0]}},"signals":false,"notify":false}' // prettier-ignore
    const end = performance.now() + seconds * 500
    for (let round = 0; round < ROUNDS * 10 || performance.now() < end; round++) {
      // Every one names a socket in a folder that is missing, so that nothing is started.
      let json = mutateJson(right)
      while (chance(50)) json = mutateJson(json)
      writeFileSync(configuration, chance(80) ? json : mutateBytes(Buffer.from(json)))
      const refused = await superserve(configuration).catch((error: unknown) => error)
      if (!(refused instanceof Error)) {
        await (refused as { close(): Promise<void> }).close()
        continue
      }
      const { code, syscall } = refused as NodeJS.ErrnoException
      if (!(refused instanceof SyntaxError) && syscall === undefined)
        t.regex(code ?? refused.stack!, codes, json.slice(0, 500))

      const address = String(
        mutateBytes(
          Buffer.from(pick(['unix:path=/nowhere/x', 'unix:abstract=%41,guid=00;tcp:host=x', 'unix:runtime=yes']))
        )
      )
      const failed = await t.throwsAsync(connectBus(address), undefined, address)
      const known = failed as NodeJS.ErrnoException
      if (known.syscall === undefined) t.regex(known.code ?? failed!.stack!, codes, address)
    }
  }
)
