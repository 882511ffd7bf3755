import type { Descriptor, FdSource } from '../descriptor/index.ts'
import { adopt } from '../descriptor/internal.ts'
import { closeFds } from '../native/internal.ts'
import { invalidType, invalidValue } from '../base/internal.ts'
import { UnixStream, closeDescriptors } from '../stream/internal.ts'
import { UnixSocket } from '../socket/index.ts'

/**
 * A connection to a D-Bus or to a peer, as the stream through which dbus-native passes descriptors. Pass it to `createClient` or
 * `createConnection` as `stream`.
 *
 * It is a `Duplex` with `writeWithFds` and the event `'fds'`: `(fds: number[])`. The event reports the descriptors of one message, or of
 * a part of one, in order, before the bytes that they arrived with can be read. They are numbers, as in `message.fds` of
 * dbus-native. Each is close-on-exec and belongs to the listener, which must close it. Without a listener they are closed.
 *
 * One message of the kernel carries at most 253 descriptors. dbus-native takes as many as a message claims, and ends the connection
 * if fewer arrived. It keeps descriptors that no message claims until the end, when it closes them by `closeFds` (since 0.16). A bus
 * does not forward such descriptors. Without a bus, accept only peers that you trust with the descriptor table.
 *
 * An error destroys the stream. Descriptors lost because the descriptor table is full are such an error, because later descriptors
 * could not be assigned to their messages. When the peer ends its half, the stream ends its own, as `net.Socket` does.
 */
export class DBusStream extends UnixStream {
  /**
   * Creates a stream over a socket from which nothing was received.
   *
   * @param socket a connected stream socket, which the stream owns from now on
   * @throws ERR_INVALID_ARG_TYPE; ERR_INVALID_ARG_VALUE for a socket of another type or a closed one
   */
  constructor(socket: UnixSocket) {
    if (!(socket instanceof UnixSocket)) throw invalidType('socket', 'an instance of UnixSocket', socket)
    if (socket.type !== 'stream') throw invalidValue('socket', `must be of type 'stream', not '${socket.type}'`)
    if (socket.closed) throw invalidValue('socket', 'is closed')
    super({ allowHalfOpen: false })
    this.attach(socket)
  }

  /**
   * Writes bytes, in order with those passed to `write`, and descriptors with the first of them.
   *
   * The descriptors are captured when the call is made: the caller keeps them, and may close them when the call returns.
   *
   * @param bytes at least one byte; they must not change until they are sent
   * @param fds at most 253 descriptors
   * @returns false if the caller should wait for `'drain'` before it writes more, as `write` does
   * @throws `EBADF` for a number that is not open, `EMFILE` if the descriptor table has no room for duplicates, ERR_INVALID_ARG_TYPE,
   *   ERR_INVALID_ARG_VALUE, ERR_OUT_OF_RANGE. Nothing is written then, and the stream stays usable
   */
  writeWithFds(bytes: Uint8Array | string, fds: readonly FdSource[]): boolean {
    return this.writeMessage(bytes, fds)
  }

  /**
   * Closes descriptors that `'fds'` reported and no message claimed. dbus-native calls it at the end of the connection.
   *
   * @param fds their numbers
   * @throws `EBADF` for a number that is not open, because other code has closed it
   */
  closeFds(fds: readonly number[]): void {
    for (const fd of fds) adopt('fds', fd)
    closeFds(fds)
  }

  /** @internal */
  protected override acceptFds(fds: readonly Descriptor[]): void {
    if (this.listenerCount('fds') === 0) closeDescriptors(fds)
    else
      this.emit(
        'fds',
        fds.map((fd) => fd.release())
      )
  }

  /** @internal */
  protected override get isConnecting(): boolean {
    return false
  }

  /** @internal This stream holds no descriptors. */
  protected override closeHeld(): void {}
}
