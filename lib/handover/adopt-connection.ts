import { channel } from 'node:diagnostics_channel'
import type { BlockList, Server, Socket } from 'node:net'
import { invalidType, invalidValue } from '../base/errors.ts'
import { checkRuntime } from '../base/runtime.ts'
import { isNetSocket, joinServer, pauseAtOnce, readingLayer, trackConnections } from '../descriptor/node-internals.ts'

/** Node reports each connection that a server has accepted here. */
const accepted = channel('net.server.socket')

/** What a server was created with, or given later. @types/node declares a part of it. */
export interface ServerOptions {
  readonly allowHalfOpen?: boolean
  readonly pauseOnConnect?: boolean
  readonly noDelay?: boolean
  readonly keepAlive?: boolean
  readonly keepAliveInitialDelay?: number
  readonly highWaterMark?: number
  readonly blockList?: BlockList
}

/**
 * Has a server serve a connection that it did not accept, as if it had accepted it.
 *
 * The server's own options and limits hold: `allowHalfOpen`, `pauseOnConnect`, `noDelay`, `keepAlive` with `keepAliveInitialDelay`,
 * `highWaterMark`, `blockList`, `maxConnections` with its event `'drop'`, and `getConnections()`. So do `headersTimeout` and
 * `requestTimeout` of an HTTP server that does not listen. `server.emit('connection', socket)` applies none of them.
 *
 * The server emits `'connection'` before this call returns, or closes the connection: one more than `maxConnections`, or one from an address
 * in `blockList`.
 *
 * @param server a server of `node:net`, `node:http`, `node:https`, `node:http2` or `node:tls`. It may listen, and need not
 * @param socket the connection, such as one of {@link receiveConnection}, which belongs to the server from now on. Bytes that its Node has
 *   read, and nothing has consumed, are the first that the server reads. A connection that another server has accepted leaves that server
 * @throws ERR_INVALID_ARG_TYPE; ERR_INVALID_ARG_VALUE for a socket that is not connected, is destroyed, or that an HTTP or TLS server reads.
 *   The connection is unchanged then. ERR_UNSUPPORTED_PLATFORM on Bun
 */
export function adoptConnection(server: Server, socket: Socket): void {
  checkRuntime('Bun', 'adoptConnection() does not work on Bun, whose servers serve only what they have accepted')
  if (!isServer(server)) throw invalidType('server', 'an instance of net.Server', server)
  if (!isNetSocket(socket)) throw invalidType('socket', 'an instance of net.Socket', socket)
  if (socket.destroyed) throw invalidValue('socket', 'is destroyed')
  if (socket.connecting || socket.pending) throw invalidValue('socket', "is not connected: wait for 'connect'")
  const layer = readingLayer(socket)
  if (layer !== undefined) throw invalidValue('socket', layer)
  serveConnection(server, socket)
}

/** Returns whether a value is a server of `node:net`, or one that is based on it. */
export function isServer(value: unknown): value is Server {
  return value instanceof process.getBuiltinModule('node:net').Server
}

/** Serves a connection with a server as Node's own `onconnection` does, in lib/net.js. */
export function serveConnection(server: Server, socket: Socket): void {
  const options = server as Server & ServerOptions
  trackConnections(server)
  if (isFull(server)) {
    server.emit('drop', addressesOf(socket))
    socket.destroy()
    return
  }
  if (options.blockList !== undefined && isBlocked(options.blockList, socket)) {
    socket.destroy()
    return
  }
  socket.allowHalfOpen = options.allowHalfOpen ?? false
  if (options.pauseOnConnect === true) pauseAtOnce(socket)
  if (options.noDelay === true) socket.setNoDelay(true)
  // Node has turned the delay into seconds.
  if (options.keepAlive === true) socket.setKeepAlive(true, (options.keepAliveInitialDelay ?? 0) * 1000)
  joinServer(server, socket, options.highWaterMark)
  server.emit('connection', socket)
  if (accepted.hasSubscribers) accepted.publish({ socket })
}

/** Returns whether a server has as many connections as it may have. 0 is no limit before Node 21. */
function isFull(server: Server): boolean {
  const { maxConnections, _connections: open } = server as Server & {
    maxConnections?: number | null
    _connections: number
  }
  if (maxConnections === undefined || maxConnections === null || open < maxConnections) return false
  return maxConnections > 0 || Number(process.versions.node.split('.')[0]) >= 21
}

function isBlocked(blockList: BlockList, { remoteAddress, remoteFamily }: Socket): boolean {
  return remoteAddress !== undefined && blockList.check(remoteAddress, remoteFamily === 'IPv6' ? 'ipv6' : 'ipv4')
}

function addressesOf(socket: Socket): object | undefined {
  const { localAddress, localPort, localFamily, remoteAddress, remotePort, remoteFamily } = socket
  if (localAddress === undefined && remoteAddress === undefined) return undefined
  return { localAddress, localPort, localFamily, remoteAddress, remotePort, remoteFamily }
}
