export type { Address } from './lib/address.ts'
export type { Abortable, Bytes } from './lib/arguments.ts'
export { type Capabilities, capabilities } from './lib/capabilities.ts'
export { type ConnectOptions, connect } from './lib/connection.ts'
export type { Credentials, Receiving } from './lib/credentials.ts'
export { type BindOptions, bind } from './lib/datagram.ts'
export { Descriptor } from './lib/descriptor.ts'
export type { SocketType } from './lib/endpoint.ts'
export type { ControlError, SystemError } from './lib/errors.ts'
export type { FdSource } from './lib/fd-source.ts'
export type { Message, ReceivedFd } from './lib/message.ts'
export { isSupported } from './lib/native.ts'
export { type ListenOptions, UnixServer, listen } from './lib/unix-server.ts'
export {
  type RecvFdOptions,
  type RecvOptions,
  type SendOptions,
  type SocketpairOptions,
  UnixSocket,
  recvFd,
  sendFd,
  socketpair
} from './lib/unix-socket.ts'
