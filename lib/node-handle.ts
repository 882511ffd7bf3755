import type { Socket } from 'node:net'
import { invalidValue, systemError } from './errors.ts'
import { fds, native } from './native.ts'

/** Whether a value is a `net.Socket`. Without loading node:net, which a program that has one has done already. */
export function isNetSocket(value: unknown): value is Socket {
  if (typeof value !== 'object' || value === null || !('connecting' in value)) return false
  return value instanceof process.getBuiltinModule('node:net').Socket
}

/**
 * A duplicate, owned by the native side, of the descriptor behind a `net.Socket` from which nothing was read and to which
 * nothing waits to be written.
 */
export function duplicateOf(socket: Socket): number {
  if ('encrypted' in socket) throw invalidValue('source', 'is a TLSSocket: its keys would stay behind')
  if (socket.connecting) throw invalidValue('source', "is still connecting: wait for 'connect'")
  if (socket.destroyed) throw invalidValue('source', 'is destroyed')
  const read = Math.max(socket.bytesRead, socket.readableLength)
  if (read > 0) throw invalidValue('source', `has read ${read} bytes, which would stay behind: pause it first`)
  if (socket.writableEnded && !socket.writableFinished)
    throw invalidValue('source', "is being ended: wait for 'finish'")
  if (socket.writableLength > 0) {
    throw invalidValue('source', `has ${socket.writableLength} bytes waiting to be written, which would stay behind`)
  }
  fds[0] = numberOf(socket)
  const code = native.duplicate(1)
  if (code < 0) throw systemError(code, 'fcntl')
  return fds[0]!
}

/** The number behind one of Node's handles, which it tells nowhere else. The one place that touches Node's internals. */
function numberOf(socket: Socket): number {
  const { _handle: handle } = socket as { _handle?: { fd?: unknown } | null }
  const fd = handle?.fd
  if (typeof fd !== 'number' || fd < 0) throw invalidValue('source', 'has no descriptor')
  return fd
}
