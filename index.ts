import './lib/socket/unix-casts.ts'
/**
 * - Sockets: {@link connect}, {@link listen} with {@link UnixServer}, {@link bind}, {@link socketpair}, {@link UnixSocket}
 * - Passing: {@link UnixSocket.send}, {@link UnixSocket.recv} with {@link Message}, {@link UnixSocket.messages};
 *   {@link sendFd}, {@link recvFd}; {@link handOver}, {@link receiveConnection}
 * - Messages that keep their descriptors, and requests: {@link Channel} with {@link ChannelMessage}
 * - What is passed: {@link FdSource}, {@link Descriptor} with its {@link Kind} and its casts; {@link memfd}, {@link pipe},
 *   {@link bindListener}
 * - Who is it: {@link UnixSocket.peer}, {@link UnixSocket.peerPidfd}, {@link Credentials}
 * - The platform: {@link capabilities}, {@link isSupported}
 * - Errors: {@link SystemError}, {@link ControlError}
 *
 * @module
 */
export type { Address } from './lib/address/unix-address.ts'
export type { Abortable } from './lib/base/abort.ts'
export type { Bytes } from './lib/base/validate.ts'
export { type ReceiveConnectionOptions, receiveConnection } from './lib/handover/receive-connection.ts'
export { type TcpListenerOptions, type UnixListenerOptions, bindListener } from './lib/socket/bind-listener.ts'
export { type Capabilities, capabilities } from './lib/socket/capabilities.ts'
export type { FileStreamOptions } from './lib/descriptor/casts.ts'
export { Channel, type ChannelOptions, type ChannelReply, type RequestOptions } from './lib/channel/channel.ts'
export type { ChannelMessage, ChannelRequest } from './lib/channel/message.ts'
export { type ConnectOptions, connect } from './lib/socket/connect.ts'
export type { Credentials, AncillaryOptions } from './lib/socket/credentials.ts'
export { type BindOptions, bind } from './lib/socket/bind.ts'
export { Descriptor } from './lib/descriptor/descriptor.ts'
export type { SocketType } from './lib/socket/endpoint.ts'
export type { ControlError } from './lib/socket/errors.ts'
export type { SystemError } from './lib/native/system-error.ts'
export type { FdSource } from './lib/descriptor/fd-source.ts'
export { handOver } from './lib/handover/hand-over.ts'
export type { Kind } from './lib/descriptor/kind.ts'
export { type MemfdOptions, memfd } from './lib/descriptor/memfd.ts'
export type { Message, ReceivedFd } from './lib/socket/message.ts'
export { isSupported } from './lib/native/binding.ts'
export { pipe } from './lib/descriptor/pipe.ts'
export type { Seal } from './lib/descriptor/seals.ts'
export { type ListenOptions, UnixServer, listen } from './lib/socket/unix-server.ts'
export {
  type RecvFdOptions,
  type RecvOptions,
  type SendOptions,
  type SocketpairOptions,
  UnixSocket,
  recvFd,
  sendFd,
  socketpair
} from './lib/socket/unix-socket.ts'
