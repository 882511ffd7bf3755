import type { Cast } from './common.ts'
import { castToSocket, castToUnixSocket, sendTcpConnection, sendUnixSocket } from './connections.ts'
import { castToConnectedSocket, castToDatagramSocket, sendUdpSocket } from './datagrams.ts'
import { castToReadStream, castToWriteStream, sendFile, sendMemory } from './files.ts'
import { castToServer, castToUnixServer, sendTcpListener, sendUnixListener } from './listeners.ts'
import {
  castMaster,
  castReadingEnd,
  castSlave,
  castWritingEnd,
  sendReadingEnd,
  sendTerminal,
  sendWritingEnd
} from './pipes.ts'

/** Each thing that can be cast, with what both sides do: the loops over these run one side in a child process. */
export const casts: Readonly<Record<string, Cast>> = {
  'a TCP connection': { method: 'toSocket', send: sendTcpConnection, cast: castToSocket },
  'a Unix stream connection': { method: 'toSocket', send: (to) => sendUnixSocket(to, 'stream'), cast: castToSocket },
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
  "a pseudoterminal's master": { method: 'toSocket', send: (to) => sendTerminal(to, 'master'), cast: castMaster },
  "a pseudoterminal's slave": { method: 'toSocket', send: (to) => sendTerminal(to, 'slave'), cast: castSlave },
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
