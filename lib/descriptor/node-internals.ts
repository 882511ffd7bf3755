import type { Socket as DatagramSocket } from 'node:dgram'
import { closeSync, fstatSync, readFileSync } from 'node:fs'
import type { ServerResponse } from 'node:http'
import type { Server, Socket, SocketConstructorOpts } from 'node:net'
import type { Readable, Writable } from 'node:stream'
import { invalidValue } from '../base/errors.ts'
import { checkRuntime } from '../base/runtime.ts'
import { systemError } from '../native/system-error.ts'
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

/** The numbers that Deno's parent has passed as `stdio` from 3 on; undefined before the first use, and where Deno forbids to read them. */
let inheritedByDeno: Set<number> | undefined

/** Returns whether Deno has received a number as `stdio`. It removes the variable that names these from `process.env`. */
function isInherited(fd: number): boolean {
  try {
    inheritedByDeno ??= inheritedNumbers()
  } catch {
    return true
  }
  return inheritedByDeno.delete(fd)
}

function inheritedNumbers(): Set<number> {
  const name = 'DENO_EXTRA_STDIO_FDS='
  const variables = readFileSync('/proc/self/environ', 'latin1').split('\0')
  const numbers = variables.find((variable) => variable.startsWith(name))?.slice(name.length)
  return new Set(numbers?.split(',').map(Number))
}

/**
 * Has Deno's `node:fs` forget a number that this process was started with, before another owner takes it over. Otherwise Deno closes it
 * once more when `node:fs` opens a file with the same number. Measured on Deno 2.9.6, whose closeSync() leaves such a number open.
 *
 * @returns whether the number may be taken over: false if `node:fs` has opened it
 */
export function takeFromDeno(fd: number): boolean {
  if (!('deno' in process.versions) || fd <= 2) return true
  try {
    fstatSync(fd)
  } catch {
    return true // node:fs does not have it
  }
  if (!isInherited(fd)) return false
  closeSync(fd)
  return true
}

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

/** Returns what is lost if a connection is sent: the state of a layer that reads from below its stream; undefined if there is none. */
function layerOf(object: NodeObject, handle: NodeHandle): string | undefined {
  // TLSSocket defines it on the handle of the socket below, which has the TLS records.
  if (Object.getOwnPropertyDescriptor(handle, 'reading')?.get !== undefined) {
    return 'is read by a TLSSocket: its keys would stay behind'
  }
  if ('parser' in object && object.parser) {
    return "is read by an HTTP parser, whose requests would stay behind: wait for 'upgrade' or 'connect'"
  }
  if (isNetSocket(object) && isHttp2Socket(object)) {
    return 'is read by an HTTP/2 session, which would stay behind'
  }
  return undefined
}

/** Returns what reads a socket from below its stream, as {@link layerOf}; undefined if nothing does. */
export function readingLayer(socket: Socket): string | undefined {
  const handle = handleOf(socket)
  return handle ? layerOf(socket, handle) : undefined
}

/** Returns whether an HTTP/2 session reads a socket. */
export function isHttp2Socket(socket: Socket): boolean {
  return socket.listeners('close').some(({ name }) => name === 'socketOnClose')
}

/** Returns the head of a response that was begun, as it is sent; empty before. `getHeader` does not return what `writeHead` was given. */
export function headOf(response: ServerResponse): string {
  return (response as unknown as { readonly _header?: string | null })._header ?? ''
}

/** Returns the number of bytes that a stream has read from its descriptor's offset, and that nothing has consumed. */
export function unreadLength(stream: Readable): number {
  if (!('_readableState' in stream) || !stream._readableState) return 0 // only its prototype is a stream's
  const readsByPosition = 'pos' in stream && stream.pos !== undefined // fs.ReadStream with `start`: pread(2)
  return readsByPosition ? 0 : stream.readableLength
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
  if (handle)
    checkRuntime('Deno', 'Sockets and servers of Deno cannot be sent, because their handles have no descriptor')
  if (!handle || typeof fd !== 'number' || fd < 0) {
    throw invalidValue(name, 'has no descriptor: it is not open, or closed again')
  }
  const layer = layerOf(object, handle)
  if (layer !== undefined) throw invalidValue(name, layer)
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

/** Returns the number of the channel that `process.send()` uses; undefined if this thread has none. */
export function parentChannel(): number | undefined {
  const symbol = Object.getOwnPropertySymbols(process).find(({ description }) => description === 'kChannelHandle')
  const handle = symbol && (process as unknown as Record<symbol, NodeHandle | null | undefined>)[symbol]
  return typeof handle?.fd === 'number' && handle.fd >= 0 ? handle.fd : undefined
}

/**
 * Returns whether a number is 0 and `process.stdin` is reading it. Does not create that stream where it could be a socket: Node would switch
 * the socket to non-blocking mode.
 */
export function isReadAsStdin(fd: number): boolean {
  if (fd !== 0) return false
  const { _getActiveHandles: activeHandles } = process as { _getActiveHandles?: () => object[] }
  const stdin = activeHandles?.().find(isStdin) as Socket | undefined
  if (stdin !== undefined) return handleOf(stdin)?.reading === true
  // Loaded when it is needed, because this takes as long as a tenth of an import of fdpass.
  if (!process.getBuiltinModule('node:worker_threads').isMainThread || !isFile(fd)) return false
  const { destroyed, readableEnded, readableFlowing } = process.stdin
  return !destroyed && !readableEnded && (readableFlowing === true || process.stdin.listenerCount('readable') > 0)
}

const isStdin = (object: object) => 'fd' in object && object.fd === 0 && isNetSocket(object)

function isFile(fd: number): boolean {
  try {
    return fstatSync(fd).isFile()
  } catch {
    return false
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

/** The servers whose connections Node tracks, as their own 'listening' handler or {@link trackConnections} has it. */
const tracking = new WeakSet<Server>()

/**
 * Has an HTTP server that does not listen track its connections, as its own 'listening' handler does. Otherwise it closes neither idle
 * connections nor those whose request takes too long.
 */
export function trackConnections(server: Server): void {
  if (server.listening || tracking.has(server)) return
  tracking.add(server)
  const track = server.listeners('listening').find(({ name }) => name === 'setupConnectionsTracking')
  track?.call(server)
}

/** The used part of a server's, and of a socket's, account of connections: `net.Server#getConnections` counts them. */
interface Counting {
  _connections: number
  _emitCloseIfDrained?(): void
}

/** Counts a connection as one of a server's, and of no other's; and sets how much Node buffers of it, in bytes. */
export function joinServer(server: Server, socket: Socket, highWaterMark: number | undefined): void {
  const counted = socket as Socket & { _server?: Counting | null; server?: Server }
  const before = counted._server
  if (before) {
    before._connections--
    before._emitCloseIfDrained?.()
  }
  const own = server as unknown as Counting
  own._connections++
  counted._server = own
  counted.server = server
  if (highWaterMark === undefined) return
  const { _readableState: input, _writableState: output } = socket as unknown as Record<
    '_readableState' | '_writableState',
    { highWaterMark: number }
  >
  input.highWaterMark = output.highWaterMark = highWaterMark
}

/** Pauses a socket, from which Node reads nothing more until it is resumed. `pause()` alone would let it read until its buffer is full. */
export function pauseAtOnce(socket: Socket): void {
  stopReading(socket)
  // Its first read waits for data. Without this, none would start again.
  const { _readableState: state } = socket as unknown as { readonly _readableState: { reading: boolean } }
  state.reading = false
  socket.pause()
}

/** Has a stream emit `'drain'` when all that was written to it has been taken, as after a `write` that returned false. */
export function requireDrain(stream: Writable): void {
  const { _writableState: state } = stream as unknown as { readonly _writableState: { needDrain: boolean } }
  state.needDrain = true
}

/** A handle of Node's for a connection that a server has accepted. */
export interface ConnectionHandle {
  getsockname?(into: { address?: string }): number
  close(): void
}

type HandleClass = new (type: number) => ConnectionHandle & { open(fd: number): number }

/** The handle classes of TCP and Unix domain sockets, which no public API returns. */
const handleClasses = new Map<boolean, HandleClass>()

/** The type of a handle for a connection: `SOCKET` of the bindings tcp_wrap and pipe_wrap. */
const CONNECTION = 0

/** Makes a handle of a connection's descriptor, which the handle owns. Throws if the event loop cannot watch the descriptor. */
export function openHandle(fd: number, isTcp: boolean): ConnectionHandle {
  let Handle = handleClasses.get(isTcp)
  if (Handle === undefined) {
    const { Socket: NetSocket } = process.getBuiltinModule('node:net')
    const socket = new NetSocket({ fd, manualStart: true } as SocketConstructorOpts) as unknown as {
      _handle: ConnectionHandle | null
    }
    const first = socket._handle!
    socket._handle = null
    Handle = first.constructor as HandleClass
    handleClasses.set(isTcp, Handle)
    return first
  }
  const handle = new Handle(CONNECTION)
  const code = handle.open(fd)
  if (code === 0) return handle
  handle.close()
  throw systemError(code, 'epoll_ctl')
}

/** Node's own way to listen, after it has parsed the arguments: `setupListenHandle` in lib/net.js. */
export type Listen = (
  this: Server,
  address: string | null,
  port: number | null,
  addressType: number | null,
  backlog: number | undefined,
  fd?: number,
  flags?: number
) => void

/** The part of Node's `net.Server` that has kept its name for code that wraps it. */
interface ListeningServer {
  _listen2: Listen
}

/** Returns Node's own way to listen. */
export function nodeListen(): Listen {
  return (process.getBuiltinModule('node:net').Server.prototype as unknown as ListeningServer)._listen2
}

/** Replaces Node's way to listen, for all servers. */
export function replaceListen(listen: Listen): void {
  ;(process.getBuiltinModule('node:net').Server.prototype as unknown as ListeningServer)._listen2 = listen
}

/** The path that a server is to listen on; undefined if it is an internet address. */
export function pipeNameOf(server: Server): string | undefined {
  return (server as unknown as { _pipeName?: string })._pipeName
}

/** Gives a server a handle that does not listen itself, and from which Node dispatches the connections that it is given. */
export function setServerHandle(server: Server, handle: object): void {
  ;(server as unknown as { _handle: object })._handle = handle
}

/** Returns whether a server listens, with a handle of its own or one of {@link setServerHandle}. */
export function hasHandle(server: Server): boolean {
  return Boolean((server as unknown as { _handle: object | null })._handle)
}
