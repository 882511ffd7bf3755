import * as fdpass from 'fdpass'
import type {
  Abortable,
  Address,
  ArgumentError,
  BindOptions,
  Bytes,
  Capabilities,
  ChannelMessage,
  ChannelOptions,
  ChannelReply,
  ChannelRequest,
  ConnectOptions,
  ConnectTcpOptions,
  ControlError,
  Credentials,
  FdHolder,
  FdSource,
  FileStreamOptions,
  Kind,
  ListenOptions,
  MemfdOptions,
  Message,
  ReceiveConnectionOptions,
  ReceivedFd,
  AncillaryOptions,
  RecvExactlyOptions,
  RecvFdOptions,
  RecvOptions,
  RequestOptions,
  Seal,
  SendOptions,
  SocketType,
  SocketpairOptions,
  SystemError,
  TcpListenerOptions,
  UnixListenerOptions,
  UnixStreamOptions
} from 'fdpass'

same<
  keyof typeof fdpass,
  | 'Channel'
  | 'Descriptor'
  | 'DescriptorStream'
  | 'TerminalStream'
  | 'UnixServer'
  | 'UnixSocket'
  | 'UnixStream'
  | 'adoptConnection'
  | 'bind'
  | 'bindListener'
  | 'capabilities'
  | 'connect'
  | 'connectTcp'
  | 'eventfd'
  | 'handOver'
  | 'isSupported'
  | 'listen'
  | 'memfd'
  | 'pipe'
  | 'receiveConnection'
  | 'recvFd'
  | 'sendFd'
  | 'socketpair'
>()

export type Types = [
  Abortable,
  Address,
  ArgumentError,
  BindOptions,
  Bytes,
  Capabilities,
  ChannelMessage,
  ChannelOptions,
  ChannelReply,
  ChannelRequest,
  ConnectOptions,
  ConnectTcpOptions,
  ControlError,
  Credentials,
  FdHolder,
  FdSource,
  FileStreamOptions,
  Kind,
  ListenOptions,
  MemfdOptions,
  Message,
  ReceiveConnectionOptions,
  ReceivedFd,
  AncillaryOptions,
  RecvExactlyOptions,
  RecvFdOptions,
  RecvOptions,
  RequestOptions,
  Seal,
  SendOptions,
  SocketType,
  SocketpairOptions,
  SystemError,
  TcpListenerOptions,
  UnixListenerOptions,
  UnixStreamOptions
]

same<Address, string>()
same<SocketType, 'stream' | 'seqpacket' | 'dgram'>()
same<Bytes, Uint8Array | string>()

// Neither is for the caller to make.
// @ts-expect-error
new fdpass.Message()
// @ts-expect-error
new fdpass.ReceivedFd()

// What the modules share among themselves is not the package's.
// @ts-expect-error
export { own } from 'fdpass'
// @ts-expect-error
export type { HotCalls } from 'fdpass/binding.cjs'
// @ts-expect-error
export { Endpoint } from 'fdpass/dist/lib/endpoint.js'

type Equal<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false

/** `exactly<T>()(value)` compiles only where the value's type is T itself, neither narrower nor wider. */
export declare function exactly<T>(): <U>(value: U, ...different: Equal<T, U> extends true ? [] : [never]) => void

/** Compiles only where the two types are the same. */
export declare function same<A, B>(...different: Equal<A, B> extends true ? [] : [never]): void

exactly<boolean>()(fdpass.isSupported)
// @ts-expect-error
fdpass.isSupported = true

const capabilities = fdpass.capabilities()
exactly<Capabilities>()(capabilities)
exactly<'uv' | 'thread'>()(capabilities.backend)
exactly<number>()(capabilities.maxFds)
exactly<boolean>()(capabilities.abstract)
exactly<boolean>()(capabilities.seqpacket)
exactly<boolean>()(capabilities.messageCredentials)
exactly<boolean>()(capabilities.messagePidfd)
exactly<boolean>()(capabilities.peerPidfd)
exactly<boolean>()(capabilities.passRights)
exactly<boolean>()(capabilities.exitDescriptors)
exactly<boolean>()(capabilities.closeOnExec)
// @ts-expect-error
capabilities.maxFds = 1
