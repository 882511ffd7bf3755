export type { Abortable, Bytes } from './lib/arguments.ts'
export { Descriptor } from './lib/descriptor.ts'
export type { SocketType } from './lib/endpoint.ts'
export type { ControlError, SystemError } from './lib/errors.ts'
export type { FdSource } from './lib/fd-source.ts'
export type { Message, ReceivedFd } from './lib/message.ts'
export { isSupported } from './lib/native.ts'
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
