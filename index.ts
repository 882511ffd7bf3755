/**
 * - Sockets: {@link connect}, {@link listen} with {@link UnixServer}, {@link bind}, {@link socketpair}, {@link UnixSocket}
 * - Passing: {@link UnixSocket.send}, {@link UnixSocket.recv} with {@link Message}, {@link UnixSocket.messages};
 *   {@link sendFd}, {@link recvFd}; {@link UnixStream}; {@link handOver}, {@link receiveConnection},
 *   {@link adoptConnection}
 * - Messages that keep their descriptors, and requests: {@link Channel} with {@link ChannelMessage}
 * - What is passed: {@link FdSource}, {@link Descriptor} with its {@link Kind} and its casts; {@link memfd}, {@link pipe}, {@link eventfd},
 *   {@link bindListener}, {@link connectTcp}
 * - Who is it: {@link UnixSocket.peer}, {@link UnixSocket.peerPidfd}, {@link Credentials}
 * - The platform: {@link capabilities}, {@link isSupported}
 * - Errors: {@link SystemError}, {@link ControlError}, {@link ArgumentError}
 *
 * @module fdpass
 */
export { type SystemError, isSupported } from './lib/native/index.ts'
export type { Abortable, ArgumentError, Bytes } from './lib/base/index.ts'
export type { Address, SocketFileOptions } from './lib/address/index.ts'
export {
  type BytesOptions,
  Descriptor,
  type EventfdOptions,
  type FdHolder,
  type FdSource,
  type FileStreamOptions,
  type Kind,
  type MemfdOptions,
  type ReadOptions,
  type Seal,
  type WriteOptions,
  eventfd,
  memfd,
  pipe
} from './lib/descriptor/index.ts'
export {
  type AncillaryOptions,
  type BindOptions,
  type Capabilities,
  type ConnectOptions,
  type ConnectTcpOptions,
  type ControlError,
  type Credentials,
  type ListenOptions,
  type Message,
  type ReceivedFd,
  type RequiredFd,
  type RecvExactlyOptions,
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
  connectTcp,
  listen,
  recvFd,
  sendFd,
  socketpair
} from './lib/socket/index.ts'
export {
  DescriptorStream,
  type DescriptorStreamOptions,
  type TerminalSize,
  TerminalStream,
  UnixStream,
  type UnixStreamOptions
} from './lib/stream/index.ts'
export { type ReceiveConnectionOptions, adoptConnection, handOver, receiveConnection } from './lib/handover/index.ts'
export {
  Channel,
  type ChannelMessage,
  type ChannelOptions,
  type ChannelReply,
  type ChannelRequest,
  type RequestOptions
} from './lib/channel/index.ts'
