import { closeSync, ftruncateSync, openSync, readFileSync, readSync, unlinkSync } from 'node:fs'
import { join } from 'node:path'
import type { Descriptor, FdSource, UnixSocket } from 'fdpass'
import { onlyIf } from '../helpers/conditions.ts'
import { connectWhenThere } from '../helpers/connections.ts'
import { temporaryFile, temporaryFolder } from '../helpers/descriptors.ts'
import { runs, start, startProgram } from '../helpers/processes.ts'
import { Reader } from '../helpers/sockets.ts'

const withWeston = onlyIf(runs('weston', '--version'), 'needs Weston')
const withClient = onlyIf(runs('sh', '-c', 'command -v weston-simple-shm'), "needs Weston's demo clients")

/** A request or an event, which look alike. */
interface Call {
  readonly object: number
  readonly opcode: number
  readonly body: Buffer
}

const DISPLAY = 1 // the object that is there from the start

const u32 = (...values: number[]) => Buffer.from(Uint32Array.from(values).buffer)

function string(text: string): Buffer {
  const padded = Buffer.alloc(Math.ceil((text.length + 1) / 4) * 4)
  padded.write(text)
  return Buffer.concat([u32(text.length + 1), padded])
}

/** The string at an offset, and the offset behind it. */
function stringAt(body: Buffer, offset: number): [string, number] {
  const length = body.readUInt32LE(offset)
  const from = offset + 4
  return [body.toString('utf8', from, from + length - 1), from + Math.ceil(length / 4) * 4]
}

/** Either end of a connection by Wayland's protocol. */
class Wire {
  readonly #reader: Reader
  readonly #socket: UnixSocket

  constructor(socket: UnixSocket) {
    this.#socket = socket
    this.#reader = new Reader(socket)
  }

  send(object: number, opcode: number, parts: readonly Buffer[], fds: readonly FdSource[] = []): Promise<void> {
    const body = Buffer.concat(parts)
    return this.#socket.send(Buffer.concat([u32(object, ((8 + body.length) << 16) | opcode), body]), { fds })
  }

  async next(): Promise<Call> {
    const head = await this.#reader.take(8)
    const body = await this.#reader.take(head.readUInt16LE(6) - 8)
    return { object: head.readUInt32LE(0), opcode: head.readUInt16LE(4), body }
  }

  /** The next descriptor: which call has one is told by the call. */
  takeFd(): Descriptor {
    return this.#reader.fds.shift()!
  }
}

withWeston('Weston maps the memory, and writes to the file, that it is sent', async (t) => {
  const folder = temporaryFolder()
  const headless = ['--backend=headless-backend.so', '--no-config', '--idle-time=0', '--debug', '--socket=display']
  const env = { ...process.env, XDG_RUNTIME_DIR: folder }
  const { child } = start(t, 'weston', headless, { stdio: 'ignore', env })
  const socket = await connectWhenThere(join(folder, 'display'))
  t.teardown(() => socket.close())
  const wire = new Wire(socket)

  /** Waits for an event, and throws what is an error. */
  async function until(object: number, onOther: (event: Call) => void = () => {}): Promise<Call> {
    for (;;) {
      const event = await wire.next()
      if (event.object === DISPLAY && event.opcode === 0) throw new Error(stringAt(event.body, 8)[0])
      if (event.object === object) return event
      onOther(event)
    }
  }

  const globals = new Map<string, number>()
  const [registry, listed, shm, debug, stream, pool, mapped] = [2, 3, 4, 5, 6, 7, 8] as const
  await wire.send(DISPLAY, 1, [u32(registry)])
  await wire.send(DISPLAY, 0, [u32(listed)])
  await until(listed, ({ object, body }) => {
    if (object === registry) globals.set(stringAt(body, 4)[0], body.readUInt32LE())
  })
  const bind = (name: string, id: number) => wire.send(registry, 0, [u32(globals.get(name)!), string(name), u32(1, id)])
  await bind('wl_shm', shm)
  await bind('weston_debug_v1', debug)

  const graph = temporaryFile()
  const file = openSync(graph, 'w')
  await wire.send(debug, 1, [string('scene-graph'), u32(stream)], [file])
  closeSync(file)
  t.is((await until(stream)).opcode, 0) // complete
  t.regex(readFileSync(graph, 'utf8'), /^Weston scene graph at /)

  const path = temporaryFile()
  const memory = openSync(path, 'r+')
  ftruncateSync(memory, 4096)
  unlinkSync(path)
  const maps = () => readFileSync(`/proc/${child.pid}/maps`, 'utf8')
  t.false(maps().includes(path))
  await wire.send(shm, 0, [u32(pool, 4096)], [memory]) // create_pool
  closeSync(memory)
  await wire.send(DISPLAY, 0, [u32(mapped)])
  await until(mapped)
  t.true(maps().includes(`${path} (deleted)`))
})

interface Drawing {
  readonly memory: Descriptor
  readonly offset: number
  readonly width: number
  readonly height: number
}

/** A minimal compositor: one client with one invisible surface. */
class Compositor {
  /** What was drawn, one frame after the other. */
  readonly frames: Buffer[] = []
  readonly #kinds = new Map([[DISPLAY, 'wl_display']])
  readonly #pools = new Map<number, Descriptor>()
  readonly #drawings = new Map<number, Drawing>()
  readonly #wire: Wire
  #window = 0
  #toplevel = 0
  #attached = 0
  #callback = 0

  constructor(wire: Wire) {
    this.#wire = wire
  }

  async serve(frames: number): Promise<void> {
    while (this.frames.length < frames) {
      const { object, opcode, body } = await this.#wire.next()
      await this.#requests[`${this.#kinds.get(object)}.${opcode}`]?.(body, object)
    }
  }

  close(): void {
    for (const pool of this.#pools.values()) pool.closeSync()
  }

  /** By interface and opcode. */
  readonly #requests: Record<string, (body: Buffer, object: number) => unknown> = {
    'wl_display.0': (body) => this.#call(body.readUInt32LE()),
    'wl_display.1': async (body) => {
      this.#kinds.set(body.readUInt32LE(), 'wl_registry')
      for (const name of ['wl_compositor', 'wl_shm', 'xdg_wm_base']) {
        await this.#wire.send(body.readUInt32LE(), 0, [u32(1), string(name), u32(name === 'wl_compositor' ? 4 : 1)])
      }
    },
    'wl_registry.0': async (body) => {
      const [name, end] = stringAt(body, 4)
      const id = body.readUInt32LE(end + 4)
      this.#kinds.set(id, name)
      if (name === 'wl_shm') for (const format of [0, 1]) await this.#wire.send(id, 0, [u32(format)])
    },
    'wl_compositor.0': (body) => this.#kinds.set(body.readUInt32LE(), 'wl_surface'),
    'xdg_wm_base.2': (body) => this.#kinds.set((this.#window = body.readUInt32LE()), 'xdg_surface'),
    'xdg_surface.1': (body) => (this.#toplevel = body.readUInt32LE()),
    'wl_shm.0': (body) => {
      this.#kinds.set(body.readUInt32LE(), 'wl_shm_pool')
      this.#pools.set(body.readUInt32LE(), this.#wire.takeFd())
    },
    'wl_shm_pool.0': (body, pool) => {
      const [id, offset, width, height] = new Uint32Array(Uint8Array.from(body).buffer)
      const memory = this.#pools.get(pool)!
      this.#drawings.set(id!, { memory, offset: offset!, width: width!, height: height! })
    },
    'wl_surface.1': (body) => (this.#attached = body.readUInt32LE()),
    'wl_surface.3': (body) => (this.#callback = body.readUInt32LE()),
    'wl_surface.6': async () => {
      if (this.#attached === 0) {
        await this.#wire.send(this.#toplevel, 0, [u32(0, 0, 0)])
        await this.#wire.send(this.#window, 0, [u32(1)])
        return
      }
      const { memory, offset, width, height } = this.#drawings.get(this.#attached)!
      const pixels = Buffer.alloc(width * height * 4)
      readSync(memory.fd, pixels, 0, pixels.length, offset)
      this.frames.push(pixels)
      await this.#wire.send(this.#attached, 0, [])
      await this.#call(this.#callback)
    }
  }

  /** Calls a callback back: time has gone on. */
  async #call(id: number): Promise<void> {
    await this.#wire.send(id, 0, [u32(this.frames.length * 500)])
    await this.#wire.send(DISPLAY, 1, [u32(id)])
  }
}

const CENTRE = (125 * 250 + 125) * 4 // of a window of 250 x 250 pixels

withClient('weston-simple-shm draws for a compositor of ours in the memory that it sends', async (t) => {
  const env = { ...process.env, WAYLAND_SOCKET: '3' }
  const { child, socket, done } = startProgram('weston-simple-shm', [], { env })
  done.catch(() => {}) // it ends by our signal
  t.teardown(() => socket.close())
  t.teardown(() => child.kill('SIGKILL'))
  const compositor = new Compositor(new Wire(socket))
  t.teardown(() => compositor.close())
  await compositor.serve(3)
  // It draws by the times that it receives: 0, 500 and 1000.
  t.deepEqual(
    compositor.frames.map((frame) => frame.readUInt32LE(CENTRE)),
    [0, 7 * 0x080401, 15 * 0x080401]
  )
  t.is(compositor.frames[0]!.readUInt32LE(0), 0xffffffff)
})
