// Adds to Descriptor the casts to the sockets of this room. Every entry point of the package imports this module.
import { borrow } from '../descriptor/fd-source.ts'
import { checkCast } from '../descriptor/casts.ts'
import { Descriptor } from '../descriptor/descriptor.ts'
import { type UnixServer, adoptServer } from './unix-server.ts'
import { UnixSocket } from './unix-socket.ts'

declare module '../descriptor/descriptor.ts' {
  interface DescriptorCasts {
    /**
     * Casts to a {@link UnixSocket}: any Unix domain socket that does not listen.
     *
     * @returns the socket, which owns the descriptor from now on and closes it
     * @throws ERR_INVALID_FD_TYPE for another kind; ERR_DESCRIPTOR_CLOSED. The descriptor is unchanged then.
     */
    toUnixSocket(): UnixSocket

    /**
     * Casts to a {@link UnixServer}: a Unix domain socket that listens. Closing the server does not remove the socket's file,
     * because another process created it.
     *
     * @returns the server, which owns the descriptor from now on and closes it
     * @throws ERR_INVALID_FD_TYPE for another kind; ERR_DESCRIPTOR_CLOSED. The descriptor is unchanged then.
     */
    toUnixServer(): UnixServer
  }
}

const casts = {
  toUnixSocket(this: Descriptor): UnixSocket {
    checkCast(this[borrow](), 'toUnixSocket')
    return UnixSocket.from(this)
  },
  toUnixServer(this: Descriptor): UnixServer {
    checkCast(this[borrow](), 'toUnixServer')
    return adoptServer(this)
  }
}

for (const [name, value] of Object.entries(casts)) {
  Object.defineProperty(Descriptor.prototype, name, { value, writable: true, configurable: true })
}
