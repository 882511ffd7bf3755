import type { Socket as DatagramSocket } from 'node:dgram'
import type { Server, Socket } from 'node:net'
import { invalidValue } from '../base/errors/argument.ts'
import { systemError } from '../native/system-error.ts'
import { fds } from '../native/shared-memory.ts'
import { native } from '../native/binding.ts'

// The one place that touches Node's internals: Node tells a handle's number nowhere else.

/** The part that is used of one of Node's handles. */
interface NodeHandle {
  readonly fd?: unknown
  reading: boolean
  readStart(): number
  readStop(): number
}

/** The part that is used of what `node:dgram` keeps under a symbol. Its `_handle` is the same, with a warning (DEP0112). */
interface DatagramState {
  readonly handle: NodeHandle | null
  connectState: number
}

/** What `connectState` is of a socket with a peer. */
const CONNECTED = 2

/** What Node's own modules give and hold a descriptor in. */
export type NodeObject = Socket | Server | DatagramSocket

/** Whether a value is a `net.Socket`. Without loading node:net, which a program that has one has done already. */
export function isNetSocket(value: unknown): value is Socket {
  if (typeof value !== 'object' || value === null || !('connecting' in value)) return false
  return value instanceof process.getBuiltinModule('node:net').Socket
}

/** Whether a value is something of `node:net` or `node:dgram` that has a descriptor. */
export function isNodeObject(value: unknown): value is NodeObject {
  if (isNetSocket(value) || value instanceof process.getBuiltinModule('node:net').Server) return true
  return value instanceof process.getBuiltinModule('node:dgram').Socket
}

function stateOf(socket: object): DatagramState | undefined {
  const symbol = Object.getOwnPropertySymbols(socket).find(({ description }) => description === 'state symbol')
  return symbol && (socket as Record<symbol, DatagramState>)[symbol]
}

function handleOf(object: NodeObject): NodeHandle | null | undefined {
  return '_handle' in object && !('bind' in object)
    ? (object as { _handle: NodeHandle | null })._handle
    : stateOf(object)?.handle
}

/** The number of the descriptor behind one of Node's objects. */
export function numberOf(name: string, object: NodeObject): number {
  if ('encrypted' in object) throw invalidValue(name, 'is a TLSSocket: its keys would stay behind')
  if ('connecting' in object && object.connecting) throw invalidValue(name, "is still connecting: wait for 'connect'")
  if ('destroyed' in object && object.destroyed) throw invalidValue(name, 'is destroyed')
  const handle = handleOf(object)
  // In a worker of a cluster, the primary's handles have a close of their own.
  if (handle && Object.hasOwn(handle, 'close')) {
    throw invalidValue(name, "is shared by the cluster's workers: listen with `exclusive: true`")
  }
  const fd = handle?.fd
  if (typeof fd !== 'number' || fd < 0) throw invalidValue(name, 'has no descriptor: it is not open, or closed again')
  return fd
}

/**
 * A duplicate, owned by the native side, of the descriptor behind a `net.Socket` from which nothing was read and to which
 * nothing waits to be written.
 */
export function duplicateOf(socket: Socket): number {
  fds[0] = numberOf('source', socket)
  const read = Math.max(socket.bytesRead, socket.readableLength)
  if (read > 0) throw invalidValue('source', `has read ${read} bytes, which would stay behind: pause it first`)
  if (socket.writableEnded && !socket.writableFinished)
    throw invalidValue('source', "is being ended: wait for 'finish'")
  if (socket.writableLength > 0) {
    throw invalidValue('source', `has ${socket.writableLength} bytes waiting to be written, which would stay behind`)
  }
  const code = native.duplicate(1)
  if (code < 0) throw systemError(code, 'fcntl')
  return fds[0]!
}

/** Has Node read no more from a socket, at once; the result lets it go on. `pause()` would let it read some more. */
export function stopReading(socket: Socket): () => void {
  const handle = handleOf(socket)
  if (!handle?.reading) return () => {}
  handle.reading = false
  handle.readStop()
  return () => {
    if (handleOf(socket) !== handle) return // destroyed
    handle.reading = true
    handle.readStart()
  }
}

/** Lets a datagram socket over a descriptor that has a peer send to it: Node only knows of a peer that it connected to. */
export function setConnected(socket: DatagramSocket): void {
  const state = stateOf(socket)
  if (state !== undefined) state.connectState = CONNECTED
}

/** The part of a server that is used to listen. */
interface ListensWithBacklog {
  listen(options: { readonly fd: number }, backlog: number): Server
}

/** Has a server listen on a descriptor, with Node's backlog of 511 unless another one is given. In a worker of a cluster `listen()` has the primary open the number, `exclusive` or not. */
export function listenOn(server: Server, fd: number, backlog = 0): Server {
  const cluster = process.getBuiltinModule('node:cluster') as unknown as { readonly isWorker: boolean }
  // Declared for a path and a port only: of all that may come first, a number behind it is the backlog.
  if (!cluster.isWorker) return (server as unknown as ListensWithBacklog).listen({ fd }, backlog)
  // What listen() calls elsewhere.
  const { _listen2: listen } = server as unknown as { _listen2: (...args: (number | null)[]) => void }
  listen.call(server, null, null, null, backlog, fd)
  return server
}

/**
 * Has an HTTP server that never listens know its connections, as it does from its own 'listening' on: without that it ends neither
 * those that are idle nor those whose request takes too long.
 */
export function trackConnections(server: Server): void {
  const track = server.listeners('listening').find(({ name }) => name === 'setupConnectionsTracking')
  track?.call(server)
}
