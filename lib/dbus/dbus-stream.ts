import type { Descriptor, FdSource } from '../descriptor/index.ts'
import { adopt } from '../descriptor/internal.ts'
import { closeFds } from '../native/internal.ts'
import { invalidType, invalidValue } from '../base/internal.ts'
import { SocketStream, closeAll } from '../stream/internal.ts'
import { UnixSocket } from '../socket/index.ts'

/**
 * A connection to a D-Bus, or to a peer, as the stream that dbus-native passes descriptors by: give it to `createClient` or
 * `createConnection` as `stream`.
 *
 * It is a `Duplex` with `writeWithFds`, and the event `'fds'`: `(fds: number[])`, the descriptors of one message or of a part of one,
 * in order, before the bytes that they came with can be read. They are numbers, as dbus-native's messages have them in
 * `message.fds`; each is close-on-exec, and belongs to the listener, who closes it. Where nobody listens they are closed.
 *
 * One message of the kernel carries at most 253. dbus-native takes as many as a message claims, ends the connection of one that claims
 * more than came, and keeps what no message claims until the end, when it has them closed by `closeFds` (from 0.16 on). A
 * bus lets no client send such; from a peer without a bus accept only whom you trust with that many descriptors.
 *
 * An error destroys it. What was received and lost its descriptors, because the descriptor table is full, is such an error: no later message
 * could be told from its descriptors. When the peer ends, the stream ends its own half, as `net.Socket` does.
 */
export class DBusStream extends SocketStream {
  /**
   * Make a stream of a socket, before anything is received from it.
   *
   * @param socket a connected stream socket, which the stream closes from now on
   * @throws ERR_INVALID_ARG_TYPE, and ERR_INVALID_ARG_VALUE for a socket of another type or one that is closed
   */
  constructor(socket: UnixSocket) {
    if (!(socket instanceof UnixSocket)) throw invalidType('socket', 'an instance of UnixSocket', socket)
    if (socket.type !== 'stream') throw invalidValue('socket', `must be of type 'stream', not '${socket.type}'`)
    if (socket.closed) throw invalidValue('socket', 'is closed')
    super({ allowHalfOpen: false })
    this.attach(socket)
  }

  /**
   * Write bytes, in order with what `write` takes, and descriptors with the first of them.
   *
   * What a descriptor means now is what is sent: it may be closed, and its number used again, as soon as this has returned.
   *
   * @param bytes at least one, unchanged until they are sent
   * @param fds at most 253; each stays the caller's
   * @returns false where more should only be written after `'drain'`, as `write` does
   * @throws `EBADF` for a number that is not open, `EMFILE` where the table has no room for duplicates, ERR_INVALID_ARG_TYPE,
   *   ERR_INVALID_ARG_VALUE, ERR_OUT_OF_RANGE: nothing is written then, and the stream goes on
   */
  writeWithFds(bytes: Uint8Array | string, fds: readonly FdSource[]): boolean {
    return this.writeCarrying(bytes, fds)
  }

  /**
   * Close descriptors that `'fds'` gave and no message claimed. dbus-native calls it when the connection is gone.
   *
   * @param fds their numbers
   * @throws `EBADF` for a number that is not open: it was closed by somebody else
   */
  closeFds(fds: readonly number[]): void {
    for (const fd of fds) adopt('fds', fd)
    closeFds(fds)
  }

  /** @internal */
  protected override takeFds(fds: readonly Descriptor[]): void {
    if (this.listenerCount('fds') === 0) closeAll(fds)
    else
      this.emit(
        'fds',
        fds.map((fd) => fd.release())
      )
  }

  /** @internal */
  protected override get awaitsSocket(): boolean {
    return false
  }

  /** @internal Nothing is held. */
  protected override closeHeld(): void {}
}
