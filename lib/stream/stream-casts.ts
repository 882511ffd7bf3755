// Adds to UnixSocket and Descriptor the casts to the streams of this room. Every entry point of the package imports this module.
import { optionsOf } from '../base/validate.ts'
import { checkCast, wrongKind } from '../descriptor/casts.ts'
import { Descriptor } from '../descriptor/descriptor.ts'
import { borrow } from '../descriptor/fd-source.ts'
import { UnixSocket, endpointOf, moveSocket } from '../socket/unix-socket.ts'
import {
  type DescriptorStream,
  type DescriptorStreamOptions,
  openDescriptorStream,
  type TerminalStream,
  openTerminal
} from './descriptor-stream.ts'
import { type UnixStream, type UnixStreamOptions, openStream } from './unix-stream.ts'

declare module '../socket/unix-socket.ts' {
  interface UnixSocketCasts {
    /**
     * Casts to a {@link UnixStream}: a Node stream with descriptors beside its bytes. Messages that an iteration received ahead are the
     * stream's first.
     *
     * @param options `allowHalfOpen`, `maxFds`
     * @returns the stream, which owns the connection from now on; this object is closed
     * @throws ERR_INVALID_FD_TYPE for a socket of another type; ERR_INVALID_STATE for one with pending operations, and for one that
     *   belongs to a Channel; ERR_SOCKET_CLOSED; ERR_INVALID_ARG_TYPE; ERR_OUT_OF_RANGE. The socket is unchanged then.
     */
    toStream(options?: UnixStreamOptions): UnixStream
  }
}

declare module '../descriptor/descriptor.ts' {
  interface DescriptorCasts {
    /**
     * Casts to a {@link UnixStream}: a Unix domain stream socket as a Node stream with descriptors beside its bytes.
     *
     * @param options `allowHalfOpen`, `maxFds`
     * @returns the stream, which owns the descriptor from now on and closes it
     * @throws ERR_INVALID_FD_TYPE for another kind; ERR_DESCRIPTOR_CLOSED; ERR_INVALID_ARG_TYPE; ERR_OUT_OF_RANGE. The descriptor is
     *   unchanged then.
     */
    toStream(options?: UnixStreamOptions): UnixStream

    /**
     * Casts to a {@link DescriptorStream}: a TCP connection or an end of a pipe as a Node stream, which the package itself reads and writes.
     *
     * Use it in place of {@link Descriptor.toSocket} on Bun, and where the blocking mode of the open file description, which the sender shares,
     * must stay. A reset of a connection is always the error `ECONNRESET`, where a `net.Socket` of Node 20 and 22 can emit `'end'`.
     *
     * @param options `allowHalfOpen`
     * @returns the stream, which owns the descriptor from now on and closes it
     * @throws ERR_INVALID_FD_TYPE for another kind; ERR_DESCRIPTOR_CLOSED; ERR_INVALID_ARG_TYPE. The descriptor is unchanged then.
     */
    toDuplex(options?: DescriptorStreamOptions): DescriptorStream

    /**
     * Casts to a {@link TerminalStream}: either end of a pseudoterminal (kinds `'pty'` and `'tty'`), or a real terminal.
     *
     * @returns the stream, which owns the descriptor from now on and closes it
     * @throws ERR_INVALID_FD_TYPE for another kind; ERR_DESCRIPTOR_CLOSED. The descriptor is unchanged then.
     */
    toTerminal(): TerminalStream
  }
}

function socketToStream(this: UnixSocket, options?: UnixStreamOptions): UnixStream {
  const { isStream, type } = endpointOf('socket', this)
  if (!isStream) throw wrongKind(`a socket of type '${type}' has no toStream()`)
  return openStream(() => moveSocket(this), optionsOf(options))
}

function descriptorToStream(this: Descriptor, options?: UnixStreamOptions): UnixStream {
  checkCast(this[borrow](), 'toStream')
  return openStream(() => UnixSocket.from(this), optionsOf(options))
}

function toDuplex(this: Descriptor, options?: DescriptorStreamOptions): DescriptorStream {
  const kind = checkCast(this[borrow](), 'toDuplex')
  return openDescriptorStream(this, kind === 'tcp', optionsOf(options))
}

function toTerminal(this: Descriptor): TerminalStream {
  checkCast(this[borrow](), 'toTerminal')
  return openTerminal(this)
}

for (const [prototype, name, value] of [
  [UnixSocket.prototype, 'toStream', socketToStream],
  [Descriptor.prototype, 'toStream', descriptorToStream],
  [Descriptor.prototype, 'toDuplex', toDuplex],
  [Descriptor.prototype, 'toTerminal', toTerminal]
] as const) {
  Object.defineProperty(prototype, name, { value, writable: true, configurable: true })
}
