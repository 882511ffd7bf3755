/**
 * Sockets with the interface of the npm package usocket, for programs that use it, such as dbus-next.
 *
 * - A connection: {@link USocket}
 * - A server: {@link UServer}
 *
 * @module fdpass/usocket
 */
import '../stream/index.ts' // adds the casts to Descriptor and UnixSocket
export { UServer, type UServerListenOptions } from './userver.ts'
export { USocket, type USocketCallback, type USocketMessage, type USocketOptions, type USocketRead } from './usocket.ts'
