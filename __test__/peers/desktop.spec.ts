import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, readSync, writeSync } from 'node:fs'
import type { ExecutionContext } from 'ava'
import { type Descriptor, type FdSource, type UnixSocket, connect, memfd } from 'fdpass'
import { onlyIf } from '../helpers/conditions.ts'
import { Bus, hasBus, jeepney, startBus } from '../helpers/dbus.ts'
import { openFile, readAll, temporaryFile } from '../helpers/descriptors.ts'
import { endWith, fixtureSource, runs, start } from '../helpers/processes.ts'
import { Reader } from '../helpers/sockets.ts'

const withJeepney = onlyIf(hasBus && jeepney !== undefined, 'needs dbus-daemon, and Jeepney for Python')
const withGdbus = onlyIf(hasBus && runs('gdbus', 'help'), 'needs dbus-daemon and gdbus')
const withXvfb = onlyIf(runs('sh', '-c', 'command -v Xvfb'), 'needs Xvfb')

withJeepney(
  'a service in Python reads the descriptor of a call over D-Bus, and replies with one of its own',
  async (t) => {
    const { path, address } = startBus(t)
    const bus = await Bus.open(t, path)
    const { child, done } = start(t, jeepney!, [fixtureSource('dbus.py'), address, 'serve', 'fdpass.Python'])
    await once(child.stdout!, 'data', { signal: AbortSignal.timeout(30_000) })
    const file = openFile('from Node')
    const call = { signature: 'h', body: [0], fds: [file] }
    const { body, fds } = await bus.call('fdpass.Python', '/files', 'fdpass.Files', 'Exchange', call)
    closeSync(file)
    t.deepEqual(body, ['from Node', 0])
    t.is(await done, 'serving\n')
    t.is(fds!.length, 1)
    t.is(readAll(fds![0]!), 'from Node, of Python')
    closeSync(fds![0]!)
  }
)

withJeepney(
  'a service of ours reads the descriptor that Python sends over D-Bus, and Python that of the reply',
  async (t) => {
    const { path, address } = startBus(t)
    const bus = await Bus.open(t, path)
    bus.serve('from Node')
    const args = [fixtureSource('dbus.py'), address, 'call', bus.name, temporaryFile('from Python')]
    t.is(await start(t, jeepney!, args).done, '1\nfrom Python\nfrom Node\n')
  }
)

withGdbus('a service of ours reads the descriptor that gdbus sends over D-Bus', async (t) => {
  const { path, address } = startBus(t)
  const bus = await Bus.open(t, path)
  bus.serve('from Node')
  const input = openFile('input of gdbus')
  const target = ['--address', address, '--dest', bus.name, '--object-path', '/files']
  const args = ['call', ...target, '--method', 'fdpass.Files.Exchange', '@h 0']
  const { done } = start(t, 'gdbus', args, { stdio: [input, 'pipe', 'inherit'] })
  closeSync(input)
  t.is(await done, "('input of gdbus', handle 0)\n")
})

const u8 = (...values: number[]) => Buffer.from(values)
const u16 = (...values: number[]) => Buffer.from(Uint16Array.from(values).buffer)
const u32 = (...values: number[]) => Buffer.from(Uint32Array.from(values).buffer)

// Requests of X11, and of its extension MIT-SHM.
const CREATE_PIXMAP = 53
const CREATE_GC = 55
const GET_IMAGE = 73
const QUERY_EXTENSION = 98
const SHM = { queryVersion: 0, putImage: 3, getImage: 4, attachFd: 6, createSegment: 7 }
const Z_PIXMAP = 2
const ALL_PLANES = 0xffffffff

/** A connection to an X server of little-endian numbers. */
class Display {
  root = 0
  depth = 0
  #shm = 0
  #lastId = 0
  readonly #reader: Reader
  readonly #socket: UnixSocket

  constructor(socket: UnixSocket) {
    this.#socket = socket
    this.#reader = new Reader(socket)
  }

  static async open(socket: UnixSocket): Promise<Display> {
    const display = new Display(socket)
    await socket.send(Buffer.concat([Buffer.from('l\0'), u16(11, 0, 0, 0, 0)]))
    const head = await display.#reader.take(8)
    const setup = await display.#reader.take(head.readUInt16LE(6) * 4)
    if (head[0] !== 1) throw new Error(`The X server refused: ${setup}`)
    const screen = 32 + Math.ceil(setup.readUInt16LE(16) / 4) * 4 + setup[21]! * 8
    display.#lastId = setup.readUInt32LE(4)
    display.root = setup.readUInt32LE(screen)
    display.depth = setup[screen + 38]!
    const { data } = await display.ask(QUERY_EXTENSION, 0, [u16(7, 0), Buffer.from('MIT-SHM\0')])
    if (data[8] !== 1) throw new Error('The X server has no MIT-SHM')
    display.#shm = data[9]!
    return display
  }

  newId(): number {
    return ++this.#lastId
  }

  async send(opcode: number, detail: number, parts: readonly Uint8Array[], fds: readonly FdSource[] = []) {
    const body = Buffer.concat(parts)
    await this.#socket.send(Buffer.concat([u8(opcode, detail), u16(1 + body.length / 4), body]), { fds })
  }

  /** Sends a request that has a reply. The error of one without a reply is reported here. */
  async ask(
    opcode: number,
    detail: number,
    parts: readonly Uint8Array[]
  ): Promise<{ data: Buffer; fds: Descriptor[] }> {
    await this.send(opcode, detail, parts)
    const head = await this.#reader.take(32)
    if (head[0] !== 1) throw new Error(`Not a reply but ${head.toString('hex')}`)
    const rest = await this.#reader.take(head.readUInt32LE(4) * 4)
    return { data: Buffer.concat([head, rest]), fds: this.#reader.fds.splice(0) }
  }

  sendShm(request: keyof typeof SHM, parts: readonly Uint8Array[], fds?: readonly FdSource[]) {
    return this.send(this.#shm, SHM[request], parts, fds)
  }

  askShm(request: keyof typeof SHM, parts: readonly Uint8Array[]) {
    return this.ask(this.#shm, SHM[request], parts)
  }
}

const WIDTH = 32
const HEIGHT = 16
const SIZE = WIDTH * HEIGHT * 4

/** An image of which no two pixels are alike; its depth is 24. */
const picture = (first: number) => u32(...Array.from({ length: WIDTH * HEIGHT }, (_, i) => first + i * 257))

/** A pixmap of an X server of its own. */
async function openPixmap(t: ExecutionContext) {
  const args = ['-displayfd', '3', '-ac', '-noreset', '-nolisten', 'tcp', '-screen', '0', '64x64x24']
  const child = spawn('Xvfb', args, { stdio: ['ignore', 'ignore', 'ignore', 'pipe'] })
  void endWith(t, child, 'SIGTERM') // it removes its lock
  const [number] = await once(child.stdio[3]!, 'data', { signal: AbortSignal.timeout(30_000) })
  const socket = await connect(`/tmp/.X11-unix/X${String(number).trim()}`)
  t.teardown(() => socket.close())
  const display = await Display.open(socket)
  t.is(display.depth, 24)
  const { data } = await display.askShm('queryVersion', [])
  t.deepEqual([data.readUInt16LE(8), data.readUInt16LE(10)], [1, 2])

  const [pixmap, gc] = [display.newId(), display.newId()]
  await display.send(CREATE_PIXMAP, display.depth, [u32(pixmap, display.root), u16(WIDTH, HEIGHT)])
  await display.send(CREATE_GC, 0, [u32(gc, pixmap, 0)])
  return {
    display,
    /** Has the server draw what the segment holds. */
    draw: (segment: number) =>
      display.sendShm('putImage', [
        u32(pixmap, gc),
        u16(WIDTH, HEIGHT, 0, 0, WIDTH, HEIGHT, 0, 0),
        u8(display.depth, Z_PIXMAP, 0, 0),
        u32(segment, 0)
      ]),
    /** What is drawn, by way of the socket. */
    async pixels(): Promise<Buffer> {
      const request = [u32(pixmap), u16(0, 0, WIDTH, HEIGHT), u32(ALL_PLANES)]
      const { data: reply } = await display.ask(GET_IMAGE, Z_PIXMAP, request)
      return reply.subarray(32)
    },
    /** Has the server write what is drawn into the segment. */
    write: (segment: number, offset: number) =>
      display.askShm('getImage', [
        u32(pixmap),
        u16(0, 0, WIDTH, HEIGHT),
        u32(ALL_PLANES),
        u8(Z_PIXMAP, 0, 0, 0),
        u32(segment, offset)
      ])
  }
}

withXvfb('an X server draws from the shared memory that it was sent (ShmAttachFd)', async (t) => {
  const { display, draw, pixels } = await openPixmap(t)
  const memory = memfd({ size: SIZE, seals: ['shrink'] })
  t.teardown(() => memory.closeSync())
  const segment = display.newId()
  await display.sendShm('attachFd', [u32(segment), u8(1, 0, 0, 0)], [memory])
  for (const first of [1, 1000]) {
    writeSync(memory.fd, picture(first), 0, SIZE, 0)
    t.notDeepEqual(await pixels(), picture(first))
    await draw(segment)
    t.deepEqual(await pixels(), picture(first))
  }
})

withXvfb(
  'an X server sends shared memory, from which it draws, and to which it writes (ShmCreateSegment)',
  async (t) => {
    const { display, draw, pixels, write } = await openPixmap(t)
    const segment = display.newId()
    const { data, fds } = await display.askShm('createSegment', [u32(segment, 2 * SIZE), u8(0, 0, 0, 0)])
    t.is(data[1], 1)
    t.is(fds.length, 1)
    using memory = fds[0]!
    writeSync(memory.fd, picture(1), 0, SIZE, 0)
    t.notDeepEqual(await pixels(), picture(1))
    await draw(segment)
    t.deepEqual(await pixels(), picture(1))

    const written = Buffer.alloc(SIZE)
    readSync(memory.fd, written, 0, SIZE, SIZE)
    t.deepEqual(written, Buffer.alloc(SIZE))
    await write(segment, SIZE)
    readSync(memory.fd, written, 0, SIZE, SIZE)
    t.deepEqual(written, picture(1))
  }
)
