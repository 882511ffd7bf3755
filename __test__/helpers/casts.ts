import type { UnixSocket } from 'fdpass'
import {
  castMaster,
  castReadingEnd,
  castSlave,
  castToReadStream,
  castToWriteStream,
  castWritingEnd,
  sendFile,
  sendMemory,
  sendReadingEnd,
  sendTerminal,
  sendWritingEnd,
  castToConnectedSocket,
  castToDatagramSocket,
  castToServer,
  castToSocket,
  castToUnixServer,
  castToUnixSocket,
  sendTcpConnection,
  sendTcpListener,
  sendUdpSocket,
  sendUnixListener,
  sendUnixSocket
} from './cast-sides.ts'

/**
 * A thing that one process makes and sends, and that another process casts and uses. Each function is one side of a channel between them,
 * and asserts what that side sees.
 */
export interface Cast {
  readonly method: Method
  /** Makes the thing, sends its descriptor, closes it here, and watches from outside how it is used. */
  send(channel: UnixSocket): Promise<void>
  /** Receives the descriptor, casts it and uses the object up to its close. */
  cast(channel: UnixSocket): Promise<void>
}

export type Method =
  | 'toSocket'
  | 'toServer'
  | 'toDatagramSocket'
  | 'toReadStream'
  | 'toWriteStream'
  | 'toUnixSocket'
  | 'toUnixServer'
  | 'toStream'
  | 'toDuplex'
  | 'toTerminal'

/** Each thing that can be cast, with what both sides do: the loops over these run one side in a child process. */
export const casts: Readonly<Record<string, Cast>> = {
  'a TCP connection': { method: 'toSocket', send: sendTcpConnection, cast: castToSocket },
  'a Unix stream connection': { method: 'toSocket', send: (to) => sendUnixSocket(to, 'stream'), cast: castToSocket },
  'a TCP connection as a DescriptorStream': {
    method: 'toDuplex',
    send: sendTcpConnection,
    cast: (from) => castToSocket(from, 'toDuplex')
  },
  'a Unix stream connection as a UnixStream': {
    method: 'toStream',
    send: (to) => sendUnixSocket(to, 'stream'),
    cast: (from) => castToSocket(from, 'toStream')
  },
  'a TCP listener': { method: 'toServer', send: sendTcpListener, cast: castToServer },
  'a Unix listener': { method: 'toServer', send: sendUnixListener, cast: castToServer },
  'a Unix listener as a UnixServer': { method: 'toUnixServer', send: sendUnixListener, cast: castToUnixServer },
  'a UDP socket on IPv4': {
    method: 'toDatagramSocket',
    send: (to) => sendUdpSocket(to, 'udp4', false),
    cast: castToDatagramSocket
  },
  'a UDP socket on IPv6': {
    method: 'toDatagramSocket',
    send: (to) => sendUdpSocket(to, 'udp6', false),
    cast: castToDatagramSocket
  },
  'a UDP socket with a peer, on IPv4': {
    method: 'toDatagramSocket',
    send: (to) => sendUdpSocket(to, 'udp4', true),
    cast: castToConnectedSocket
  },
  'a UDP socket with a peer, on IPv6': {
    method: 'toDatagramSocket',
    send: (to) => sendUdpSocket(to, 'udp6', true),
    cast: castToConnectedSocket
  },
  'a file, read from its shared offset': {
    method: 'toReadStream',
    send: (to) => sendFile(to, 'contents'),
    cast: (from) => castToReadStream(from, {}, 'tents')
  },
  'a file, read from a start': {
    method: 'toReadStream',
    send: (to) => sendFile(to, 'contents'),
    cast: (from) => castToReadStream(from, { start: 1, highWaterMark: 2 }, 'ontents')
  },
  'a file, written at its shared offset': {
    method: 'toWriteStream',
    send: (to) => sendFile(to, 'conXYZts'),
    cast: (from) => castToWriteStream(from, {})
  },
  'a file, written from a start': {
    method: 'toWriteStream',
    send: (to) => sendFile(to, 'cXYZents'),
    cast: (from) => castToWriteStream(from, { start: 1 })
  },
  'memory, read': {
    method: 'toReadStream',
    send: (to) => sendMemory(to, 'contents'),
    cast: (from) => castToReadStream(from, {}, 'contents')
  },
  'memory, written': {
    method: 'toWriteStream',
    send: (to) => sendMemory(to, 'conteXYZ'),
    cast: (from) => castToWriteStream(from, { start: 5 })
  },
  "a pipe's reading end": { method: 'toSocket', send: sendReadingEnd, cast: castReadingEnd },
  "a pipe's writing end": { method: 'toSocket', send: sendWritingEnd, cast: castWritingEnd },
  "a pipe's reading end as a DescriptorStream": {
    method: 'toDuplex',
    send: sendReadingEnd,
    cast: (from) => castReadingEnd(from, 'toDuplex')
  },
  "a pipe's writing end as a DescriptorStream": {
    method: 'toDuplex',
    send: sendWritingEnd,
    cast: (from) => castWritingEnd(from, 'toDuplex')
  },
  "a pseudoterminal's master": { method: 'toTerminal', send: (to) => sendTerminal(to, 'master'), cast: castMaster },
  "a pseudoterminal's slave": { method: 'toTerminal', send: (to) => sendTerminal(to, 'slave'), cast: castSlave },
  'a Unix stream socket': {
    method: 'toUnixSocket',
    send: (to) => sendUnixSocket(to, 'stream'),
    cast: (from) => castToUnixSocket(from, 'stream')
  },
  'a Unix seqpacket socket': {
    method: 'toUnixSocket',
    send: (to) => sendUnixSocket(to, 'seqpacket'),
    cast: (from) => castToUnixSocket(from, 'seqpacket')
  },
  'a Unix datagram socket': {
    method: 'toUnixSocket',
    send: (to) => sendUnixSocket(to, 'dgram'),
    cast: (from) => castToUnixSocket(from, 'dgram')
  }
}
