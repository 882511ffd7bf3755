import './unix-casts.ts' // adds the casts to Descriptor
export { type TcpListenerOptions, type UnixListenerOptions, bindListener } from './bind-listener.ts'
export { type BindOptions, bind } from './bind.ts'
export { type Capabilities, capabilities } from './capabilities.ts'
export { type ConnectOptions, connect } from './connect.ts'
export type { AncillaryOptions, Credentials } from './credentials.ts'
export type { SocketType } from './endpoint.ts'
export type { ControlError } from './errors.ts'
export type { Message, ReceivedFd } from './message.ts'
export { type ListenOptions, UnixServer, listen } from './unix-server.ts'
export {
  type RecvFdOptions,
  type RecvOptions,
  type SendOptions,
  type SocketpairOptions,
  UnixSocket,
  recvFd,
  sendFd,
  socketpair
} from './unix-socket.ts'
