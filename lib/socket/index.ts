import './unix-casts.ts' // adds the casts to Descriptor
export { type TcpListenerOptions, type UnixListenerOptions, bindListener } from './bind-listener.ts'
export { type Capabilities, capabilities } from './capabilities.ts'
export type { AncillaryOptions, Credentials } from './credentials.ts'
export type { SocketType } from './endpoint.ts'
export type { ControlError } from './errors.ts'
export type { Message, ReceivedFd, RequiredFd } from './message.ts'
export {
  type BindOptions,
  type ConnectOptions,
  type ConnectTcpOptions,
  type SocketpairOptions,
  bind,
  connect,
  connectTcp,
  socketpair
} from './open-sockets.ts'
export { type ListenOptions, UnixServer, listen } from './unix-server.ts'
export {
  type RecvExactlyOptions,
  type RecvFdOptions,
  type RecvOptions,
  type SendOptions,
  UnixSocket,
  recvFd,
  sendFd
} from './unix-socket.ts'
