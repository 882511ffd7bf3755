import { on, once } from 'node:events'
import { closeSync } from 'node:fs'
import { join } from 'node:path'
import type { ExecutionContext } from 'ava'
import { type Message, createConnection, messageType } from 'dbus-native'
import { DBusStream } from 'fdpass/dbus'
import { socketpair } from 'fdpass'
import { connectWhenThere } from './connections.ts'
import { openFile, readAll, temporaryFolder } from './descriptors.ts'
import { runs, start } from './processes.ts'

export const hasBus = runs('dbus-daemon', '--version')

// A Python from elsewhere does not see the libraries of the system's.
export const jeepney = ['python3', '/usr/bin/python3'].find((name) => runs(name, '-c', 'import jeepney.fds'))

const folder = temporaryFolder()
let buses = 0

/** Starts a bus of its own. */
export function startBus(t: ExecutionContext): { path: string; address: string } {
  const path = join(folder, `bus-${buses++}`)
  const address = `unix:path=${path}`
  start(t, 'dbus-daemon', ['--session', '--nofork', '--nopidfile', `--address=${address}`], { stdio: 'ignore' })
  return { path, address }
}

/** A connection by dbus-native, whose client has no place for the descriptors of a reply. */
export class Bus {
  name = ''
  #serial = 0
  readonly #connection

  constructor(stream: DBusStream) {
    this.#connection = createConnection({ stream })
    this.#connection.setMaxListeners(0) // one for each call that waits
  }

  static async open(t: ExecutionContext, path: string): Promise<Bus> {
    const stream = new DBusStream(await connectWhenThere(path))
    t.teardown(() => void stream.destroy())
    const bus = new Bus(stream)
    await once(bus.#connection, 'connect')
    t.true(bus.#connection.unixFdsAgreed)
    const { body } = await bus.call('org.freedesktop.DBus', '/', 'org.freedesktop.DBus', 'Hello')
    bus.name = body![0] as string
    return bus
  }

  /** Calls a method; rejects where the reply is an error. */
  async call(destination: string, path: string, iface: string, member: string, more = {}): Promise<Message> {
    const serial = this.#send({ type: messageType.methodCall, destination, path, interface: iface, member, ...more })
    for await (const [message] of on(this.#connection, 'message', { signal: AbortSignal.timeout(30_000) })) {
      if (message.replySerial !== serial) continue
      if (message.type === messageType.error) throw new Error(`${message.errorName}: ${message.body}`)
      return message
    }
    throw new Error('The connection has ended')
  }

  /** Answers calls to `Exchange(h) -> (s, h)` with what the file holds, and with a file of ours. */
  serve(content: string): void {
    this.#connection.on('message', ({ type, member, sender, serial, fds = [] }: Message) => {
      if (type !== messageType.methodCall) return
      const to = { destination: sender!, replySerial: serial! }
      if (member !== 'Exchange') {
        this.#send({ type: messageType.error, ...to, errorName: 'org.freedesktop.DBus.Error.UnknownMethod' })
        return
      }
      const file = openFile(content)
      const body = [readAll(fds[0]!), 0]
      this.#send({ type: messageType.methodReturn, ...to, signature: 'sh', body, fds: [file] })
      for (const fd of [file, ...fds]) closeSync(fd)
    })
  }

  #send(message: Message): number {
    this.#connection.message({ serial: ++this.#serial, ...message })
    return this.#serial
  }
}

export const soon = () => ({ signal: AbortSignal.timeout(30_000) })

/** Two peers without a bus, of which the first was the server of the handshake. */
export async function openPeers(t: ExecutionContext) {
  const streams = socketpair().map((socket) => new DBusStream(socket))
  t.teardown(() => streams.forEach((stream) => stream.destroy()))
  // dbus-native's declarations lack `server` and `direct`.
  const options = [
    { stream: streams[0], server: true },
    { stream: streams[1], direct: true }
  ] as object[]
  const connections = options.map((each) => createConnection(each as Parameters<typeof createConnection>[0]))
  await Promise.all(connections.map((connection) => once(connection, 'connect', soon())))
  return { server: connections[0]!, client: connections[1]!, streams }
}

/** The bytes of a header field. */
export function encodeField(code: number, type: string, value: Buffer): Buffer {
  return Buffer.concat([Buffer.from([code, 1, type.charCodeAt(0), 0]), value])
}

/** The bytes of a method call that claims descriptors. */
export function encodeCall(
  serial: number,
  fds: number,
  { bigEndian = false, before = [] as readonly Buffer[] } = {}
): Buffer {
  const uint32 = (value: number) => {
    const bytes = Buffer.alloc(4)
    return bigEndian ? (bytes.writeUInt32BE(value), bytes) : (bytes.writeUInt32LE(value), bytes)
  }
  const string = (value: string) => Buffer.concat([uint32(value.length), Buffer.from(`${value}\0`)])
  const all = [
    ...before,
    encodeField(1, 'o', string('/x')),
    encodeField(3, 's', string('Take')),
    encodeField(8, 'g', Buffer.from('\0\0'))
  ]
  if (fds > 0) all.push(encodeField(9, 'u', uint32(fds)))
  const padded = all.map((each) => Buffer.concat([each, Buffer.alloc(-each.length & 7)]))
  const fields = Buffer.concat([...padded.slice(0, -1), all.at(-1)!])
  const beginning = Buffer.from([(bigEndian ? 'B' : 'l').charCodeAt(0), messageType.methodCall, 0, 1])
  const header = Buffer.concat([beginning, uint32(0), uint32(serial), uint32(fields.length), fields])
  return Buffer.concat([header, Buffer.alloc(-header.length & 7)])
}
