/**
 * - Sockets: {@link connect}, {@link listen} with {@link UnixServer}, {@link bind}, {@link socketpair}, {@link UnixSocket}
 * - Passing: {@link UnixSocket.send}, {@link UnixSocket.recv} with {@link Message}, {@link UnixSocket.messages};
 *   {@link sendFd}, {@link recvFd}; {@link handOver}, {@link receiveConnection}
 * - Messages that keep their descriptors, and requests: {@link Channel} with {@link ChannelMessage}
 * - What is passed: {@link FdSource}, {@link Descriptor} with its {@link Kind} and its casts; {@link memfd}, {@link pipe},
 *   {@link bindListener}
 * - Who is it: {@link UnixSocket.peer}, {@link UnixSocket.peerPidfd}, {@link Credentials}
 * - The platform: {@link capabilities}, {@link isSupported}
 * - Errors: {@link SystemError}, {@link ControlError}, {@link ArgumentError}
 *
 * @module fdpass
 */
export { type SystemError, isSupported } from './lib/native/index.ts'
export type { Abortable, ArgumentError, Bytes } from './lib/base/index.ts'
export type { Address } from './lib/address/index.ts'
export {
  Descriptor,
  type FdHolder,
  type FdSource,
  type FileStreamOptions,
  type Kind,
  type MemfdOptions,
  type Seal,
  memfd,
  pipe
} from './lib/descriptor/index.ts'
export {
  type AncillaryOptions,
  type BindOptions,
  type Capabilities,
  type ConnectOptions,
  type ControlError,
  type Credentials,
  type ListenOptions,
  type Message,
  type ReceivedFd,
  type RecvFdOptions,
  type RecvOptions,
  type SendOptions,
  type SocketType,
  type SocketpairOptions,
  type TcpListenerOptions,
  type UnixListenerOptions,
  UnixServer,
  UnixSocket,
  bind,
  bindListener,
  capabilities,
  connect,
  listen,
  recvFd,
  sendFd,
  socketpair
} from './lib/socket/index.ts'
export { type ReceiveConnectionOptions, handOver, receiveConnection } from './lib/handover/index.ts'
export {
  Channel,
  type ChannelMessage,
  type ChannelOptions,
  type ChannelReply,
  type ChannelRequest,
  type RequestOptions
} from './lib/channel/index.ts'
