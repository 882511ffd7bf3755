import type { Socket as DatagramSocket } from 'node:dgram'
import type { Server, Socket } from 'node:net'
import { invalidValue } from '../base/errors/argument.ts'
import { duplicateFd } from '../native/owned-fds.ts'

// The only file that touches Node's internals: no public API returns the descriptor of a handle.

/** The used part of a handle of Node's. */
interface NodeHandle {
  readonly fd?: unknown
  reading: boolean
  readStart(): number
  readStop(): number
}

/** The used part of the state that `node:dgram` keeps under a symbol. Its `_handle` is the same, with a warning (DEP0112). */
interface DatagramState {
  readonly handle: NodeHandle | null
  connectState: number
}

/** The `connectState` of a socket with a peer. */
const CONNECTED = 2

/** An object of Node's that holds a descriptor. */
export type NodeObject = Socket | Server | DatagramSocket

/** Returns whether a value is a `net.Socket`. Does not load node:net: a program that has a socket has loaded it. */
export function isNetSocket(value: unknown): value is Socket {
  if (typeof value !== 'object' || value === null || !('connecting' in value)) return false
  return value instanceof process.getBuiltinModule('node:net').Socket
}

/** Returns whether a value is a socket or server of `node:net` or `node:dgram`. */
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

/** Returns the descriptor of an object of Node's; throws ERR_INVALID_ARG_VALUE if it has none or cannot be sent. */
export function numberOf(name: string, object: NodeObject): number {
  if ('encrypted' in object) throw invalidValue(name, 'is a TLSSocket: its keys would stay behind')
  if ('connecting' in object && object.connecting) throw invalidValue(name, "is still connecting: wait for 'connect'")
  if ('destroyed' in object && object.destroyed) throw invalidValue(name, 'is destroyed')
  const handle = handleOf(object)
  // In a worker of a cluster, a handle of the primary has a `close` of its own.
  if (handle && Object.hasOwn(handle, 'close')) {
    throw invalidValue(name, "is shared by the cluster's workers: listen with `exclusive: true`")
  }
  const fd = handle?.fd
  if (typeof fd !== 'number' || fd < 0) throw invalidValue(name, 'has no descriptor: it is not open, or closed again')
  return fd
}

/**
 * Duplicates the descriptor of a `net.Socket`; the native side owns the duplicate. Throws ERR_INVALID_ARG_VALUE if the socket has read
 * bytes, or has bytes to write.
 */
export function duplicateOf(socket: Socket): number {
  const fd = numberOf('source', socket)
  const read = Math.max(socket.bytesRead, socket.readableLength)
  if (read > 0) throw invalidValue('source', `has read ${read} bytes, which would stay behind: pause it first`)
  if (socket.writableEnded && !socket.writableFinished)
    throw invalidValue('source', "is being ended: wait for 'finish'")
  if (socket.writableLength > 0) {
    throw invalidValue('source', `has ${socket.writableLength} bytes waiting to be written, which would stay behind`)
  }
  return duplicateFd(fd)
}

/** Stops Node from reading a socket, at once; the returned function resumes. `pause()` would let it read until its buffer is full. */
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

/** Marks a datagram socket as connected. Node does not detect that the descriptor of a socket has a peer. */
export function setConnected(socket: DatagramSocket): void {
  const state = stateOf(socket)
  if (state !== undefined) state.connectState = CONNECTED
}

/** The used part of a server. */
interface ListensWithBacklog {
  listen(options: { readonly fd: number }, backlog: number): Server
}

/**
 * Lets a server listen on a descriptor, with Node's backlog of 511 by default. In a worker of a cluster `listen()` would open the number in
 * the primary, even with `exclusive: true`.
 */
export function listenOn(server: Server, fd: number, backlog = 0): Server {
  const cluster = process.getBuiltinModule('node:cluster') as unknown as { readonly isWorker: boolean }
  // @types/node declares `backlog` for a path and a port only; Node accepts it after any first argument.
  if (!cluster.isWorker) return (server as unknown as ListensWithBacklog).listen({ fd }, backlog)
  // listen() calls this outside of a worker.
  const { _listen2: listen } = server as unknown as { _listen2: (...args: (number | null)[]) => void }
  listen.call(server, null, null, null, backlog, fd)
  return server
}

/**
 * Lets an HTTP server that never listens track its connections, as its own 'listening' handler does. Otherwise it closes neither idle
 * connections nor those whose request takes too long.
 */
export function trackConnections(server: Server): void {
  const track = server.listeners('listening').find(({ name }) => name === 'setupConnectionsTracking')
  track?.call(server)
}
