import { createSocket, type Socket as DatagramSocket } from 'node:dgram'
import { once } from 'node:events'
import { type ReadStream, type WriteStream, closeSync, read, readSync, writeSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { type AddressInfo, type Server, type Socket, connect as connectNode } from 'node:net'
import { join } from 'node:path'
import {
  type Descriptor,
  type FdSource,
  type UnixServer,
  type UnixSocket,
  bindListener,
  connect,
  memfd,
  pipe,
  socketpair
} from 'fdpass'
import { temporaryFile, temporaryFolder } from './descriptors.ts'
import { openPty } from './things.ts'

/** What one process makes and sends: the other end tells what came of it. */
export interface Made {
  readonly source: FdSource
  /** Closes what was sent here, once it is sent. */
  close(): unknown
  /** The other end's part; resolves to what it has seen. */
  answer(): Promise<string>
  /** Whether that comes after what was sent has been used. */
  readonly later?: true
}

/** A cast: what one process makes, and what another one does with what it has cast. */
export interface Cast<T> {
  readonly method: Method
  readonly options?: object
  make(): Made | Promise<Made>
  /** Uses it to the end; resolves to what it has seen. */
  use(object: T): Promise<string>
  /** What each side has seen. */
  readonly used: string
  readonly answered: string
}

export type Method =
  'toSocket' | 'toServer' | 'toDatagramSocket' | 'toReadStream' | 'toWriteStream' | 'toUnixSocket' | 'toUnixServer'

let folder: string | undefined
let names = 0
/** A path for a socket, in a folder of this process. */
export const newPath = () => join((folder ??= temporaryFolder()), `socket-${names++}`)

/** What can be read of a socket up to its end, of which errors are one. */
export async function readToEnd(socket: Socket | ReadStream): Promise<string> {
  let seen = ''
  try {
    for await (const chunk of socket) seen += String(chunk)
  } catch (error) {
    seen += ` ${(error as NodeJS.ErrnoException).code}`
  }
  return seen
}

/** Reads "ping", writes "pong", and closes without a shutdown, so that the other end only sees the end of the last descriptor. */
async function pong(socket: Socket): Promise<string> {
  const [data] = (await once(socket, 'data')) as [Buffer]
  await new Promise((resolve) => socket.write('pong', resolve))
  socket.destroy()
  await once(socket, 'close')
  return data.toString()
}

/** Writes "ping", and reads up to the end. */
async function ping(socket: Socket): Promise<string> {
  socket.write('ping')
  return readToEnd(socket)
}

async function unixPong(socket: UnixSocket): Promise<string> {
  const data = (await socket.recv())!.data
  await socket.send('pong')
  socket.close()
  return `${socket.type} ${Buffer.from(data).toString()}`
}

/** Sends "ping", and receives up to the end, which a datagram socket only sees when it sends. */
async function unixPing(socket: UnixSocket): Promise<string> {
  await socket.send('ping')
  let seen = Buffer.from((await socket.recv())!.data).toString()
  if (socket.type === 'dgram') {
    for (;;) {
      try {
        await socket.send('more')
      } catch (error) {
        seen += ` ${(error as NodeJS.ErrnoException).code}`
        break
      }
      await new Promise((resolve) => setTimeout(resolve, 5))
    }
  } else if ((await socket.recv()) === null) seen += ' end'
  socket.close()
  return seen
}

/** A pair of which one end is sent. */
function unixPair(type: 'stream' | 'seqpacket' | 'dgram'): Made {
  const [here, there] = socketpair({ type })
  return { source: there, close: () => there.close(), answer: () => unixPing(here) }
}

/** A connection over TCP, of which the accepting side is sent. */
async function tcpConnection(): Promise<Made> {
  using listener = bindListener({ port: 0, host: '127.0.0.1' })
  const { port } = listener.address as AddressInfo
  const server = await listener.duplicate().toServer({ pauseOnConnect: true })
  const accepted = once(server, 'connection') as Promise<[Socket]>
  const client = connectNode(port, '127.0.0.1')
  const [source] = await accepted
  await once(client, 'connect')
  server.close()
  return { source, close: () => source.destroy(), answer: () => ping(client) }
}

/** A listener; the other end connects, and is refused once it is closed everywhere. */
function listeningOn(listening: Descriptor, target: () => Socket): Made {
  return {
    source: listening,
    close: () => listening.closeSync(),
    async answer() {
      const seen = await readToEnd(target())
      for (;;) {
        const refused = await readToEnd(target().resume())
        if (refused !== '' && !refused.includes('ECONNRESET')) return seen + refused
        await new Promise((resolve) => setTimeout(resolve, 5))
      }
    }
  }
}

function tcpListener(): Made {
  const listening = bindListener({ port: 0, host: '127.0.0.1' })
  const { port } = listening.address as AddressInfo
  return listeningOn(listening, () => connectNode(port, '127.0.0.1'))
}

function unixListener(): Made {
  const path = newPath()
  return listeningOn(bindListener({ path }), () => connectNode(path))
}

async function accept(server: Server): Promise<string> {
  const [connection] = (await once(server, 'connection')) as [Socket]
  connection.end('accepted')
  await new Promise((resolve) => server.close(resolve))
  return server.listening ? 'listening' : 'closed'
}

/** A bound UDP socket. The other end sends until it is told that nobody is there. */
async function udp(type: 'udp4' | 'udp6', isConnected: boolean): Promise<Made> {
  const host = type === 'udp4' ? '127.0.0.1' : '::1'
  const [source, here] = [createSocket(type), createSocket(type)]
  source.bind(0, host)
  here.bind(0, host)
  await Promise.all([once(source, 'listening'), once(here, 'listening')])
  here.connect(source.address().port, host)
  await once(here, 'connect')
  if (isConnected) {
    source.connect(here.address().port, host)
    await once(source, 'connect')
  }
  return {
    source,
    close: () => source.close(),
    async answer() {
      const answered = once(here, 'message') as Promise<[Buffer]>
      here.send('ping')
      const seen = (await answered)[0].toString()
      const refused = once(here, 'error') as Promise<[NodeJS.ErrnoException]>
      const sending = setInterval(() => here.send('more', () => {}), 5)
      const [{ code }] = await refused
      clearInterval(sending)
      here.close()
      return `${seen} ${code}`
    }
  }
}

async function udpPong(socket: DatagramSocket): Promise<string> {
  const [data, from] = (await once(socket, 'message')) as [Buffer, AddressInfo]
  await new Promise((resolve) => socket.send('pong', from.port, from.address, resolve))
  await new Promise<void>((resolve) => socket.close(resolve))
  return data.toString()
}

async function udpPongToPeer(socket: DatagramSocket): Promise<string> {
  const [data, from] = (await once(socket, 'message')) as [Buffer, AddressInfo]
  await new Promise((resolve) => socket.send('pong', resolve))
  const peer = socket.remoteAddress()
  await new Promise<void>((resolve) => socket.close(resolve))
  return `${data.toString()} from ${peer.port === from.port && peer.address === from.address ? 'the peer' : 'another'}`
}

/** A file, whose offset has been moved to the end of "con". */
async function file(): Promise<Made> {
  const handle = await open(temporaryFile('contents'), 'r+')
  await handle.read(Buffer.alloc(3), 0, 3, null)
  const copy = await open(`/proc/self/fd/${handle.fd}`, 'r')
  return {
    source: handle,
    close: () => handle.close(),
    later: true,
    async answer() {
      const content = await copy.readFile('utf8')
      await copy.close()
      return content
    }
  }
}

function memory(): Made {
  const made = memfd({ data: 'contents' })
  const copy = made.duplicate()
  return {
    source: made,
    close: () => made.closeSync(),
    later: true,
    async answer() {
      const buffer = Buffer.alloc(100)
      const content = buffer.subarray(0, readSync(copy.fd, buffer, 0, 100, 0)).toString()
      copy.closeSync()
      return content
    }
  }
}

async function writeAll(stream: WriteStream): Promise<string> {
  stream.end('XYZ')
  await once(stream, 'close')
  return `${stream.bytesWritten}`
}

/** The end of a pipe; the other end stays. */
function pipeEnd(sent: 'read' | 'write'): Made {
  const [reading, write] = pipe()
  const source = sent === 'read' ? reading : write
  return {
    source,
    close: () => source.closeSync(),
    async answer() {
      if (sent === 'write') return readToEnd(reading.toSocket())
      writeSync(write.fd, 'ping')
      await new Promise((resolve) => setTimeout(resolve, 20))
      try {
        // Until the reader is gone.
        for (;;) {
          writeSync(write.fd, 'more')
          await new Promise((resolve) => setTimeout(resolve, 5))
        }
      } catch (error) {
        write.closeSync()
        return (error as NodeJS.ErrnoException).code!
      }
    }
  }
}

const halves = ({ readable, writable }: Socket) => `${readable ? 'r' : '-'}${writable ? 'w' : '-'}`

/** One side of a pseudoterminal in raw mode; the other one is read and written without Node's streams. */
async function pty(sent: 0 | 1): Promise<Made> {
  const both = await openPty()
  const [source, other] = [both[sent], both[1 - sent]!]
  return {
    source,
    close: () => source.closeSync(),
    async answer() {
      const number = other.release()
      writeSync(number, 'ping')
      let seen = ''
      try {
        for (;;) {
          const { bytesRead, buffer } = await readLater(number)
          if (bytesRead === 0) break
          seen += buffer.subarray(0, bytesRead).toString()
          if (sent === 0 && seen === 'pong') writeSync(number, 'seen')
        }
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'EIO') throw error
      }
      closeSync(number)
      return `${seen} end`
    }
  }
}

function readLater(number: number): Promise<{ bytesRead: number; buffer: Buffer }> {
  return new Promise((resolve, reject) => {
    read(number, Buffer.alloc(100), 0, 100, null, (error, bytesRead, buffer) => {
      if (error) reject(error)
      else resolve({ bytesRead, buffer })
    })
  })
}

const cast = <T>(definition: Cast<T>) => definition as Cast<unknown>

/** All casts, by title. */
export const casts: Record<string, Cast<unknown>> = {
  'a TCP connection': cast<Socket>({
    method: 'toSocket',
    make: tcpConnection,
    use: pong,
    used: 'ping',
    answered: 'pong'
  }),
  'a Unix stream connection': cast<Socket>({
    method: 'toSocket',
    make: () => unixPair('stream'),
    use: pong,
    used: 'ping',
    answered: 'pong end'
  }),
  'a TCP listener': cast<Server>({
    method: 'toServer',
    make: tcpListener,
    use: accept,
    used: 'closed',
    answered: 'accepted ECONNREFUSED'
  }),
  'a Unix listener': cast<Server>({
    method: 'toServer',
    make: unixListener,
    use: accept,
    used: 'closed',
    answered: 'accepted ECONNREFUSED'
  }),
  'a Unix listener as a UnixServer': cast<UnixServer>({
    method: 'toUnixServer',
    make: unixListener,
    async use(server) {
      const own = await connect(server.address)
      const accepted = [await server.accept(), await server.accept()]
      for (const connection of accepted) {
        await connection.send('accepted')
        connection.close()
      }
      own.close()
      server.close()
      return server.type
    },
    used: 'stream',
    answered: 'accepted ECONNREFUSED'
  }),
  'a UDP socket on IPv4': cast<DatagramSocket>({
    method: 'toDatagramSocket',
    make: () => udp('udp4', false),
    use: udpPong,
    used: 'ping',
    answered: 'pong ECONNREFUSED'
  }),
  'a UDP socket on IPv6': cast<DatagramSocket>({
    method: 'toDatagramSocket',
    make: () => udp('udp6', false),
    use: udpPong,
    used: 'ping',
    answered: 'pong ECONNREFUSED'
  }),
  'a UDP socket with a peer, on IPv4': cast<DatagramSocket>({
    method: 'toDatagramSocket',
    make: () => udp('udp4', true),
    use: udpPongToPeer,
    used: 'ping from the peer',
    answered: 'pong ECONNREFUSED'
  }),
  'a UDP socket with a peer, on IPv6': cast<DatagramSocket>({
    method: 'toDatagramSocket',
    make: () => udp('udp6', true),
    use: udpPongToPeer,
    used: 'ping from the peer',
    answered: 'pong ECONNREFUSED'
  }),
  'a file, read from its shared offset': cast<ReadStream>({
    method: 'toReadStream',
    make: file,
    use: readToEnd,
    used: 'tents',
    answered: 'contents'
  }),
  'a file, read from a start': cast<ReadStream>({
    method: 'toReadStream',
    options: { start: 1, highWaterMark: 2 },
    make: file,
    use: readToEnd,
    used: 'ontents',
    answered: 'contents'
  }),
  'a file, written at its shared offset': cast<WriteStream>({
    method: 'toWriteStream',
    make: file,
    use: writeAll,
    used: '3',
    answered: 'conXYZts'
  }),
  'a file, written from a start': cast<WriteStream>({
    method: 'toWriteStream',
    options: { start: 1 },
    make: file,
    use: writeAll,
    used: '3',
    answered: 'cXYZents'
  }),
  'memory, read': cast<ReadStream>({
    method: 'toReadStream',
    make: memory,
    use: readToEnd,
    used: 'contents',
    answered: 'contents'
  }),
  'memory, written': cast<WriteStream>({
    method: 'toWriteStream',
    options: { start: 5 },
    make: memory,
    use: writeAll,
    used: '3',
    answered: 'conteXYZ'
  }),
  "a pipe's reading end": cast<Socket>({
    method: 'toSocket',
    make: () => pipeEnd('read'),
    async use(socket) {
      const seen = halves(socket)
      const [data] = (await once(socket, 'data')) as [Buffer]
      socket.destroy()
      await once(socket, 'close')
      return `${seen} ${data.toString().slice(0, 4)}`
    },
    used: 'r- ping',
    answered: 'EPIPE'
  }),
  "a pipe's writing end": cast<Socket>({
    method: 'toSocket',
    make: () => pipeEnd('write'),
    async use(socket) {
      const seen = halves(socket)
      socket.end('pong')
      await once(socket, 'close')
      return seen
    },
    used: '-w',
    answered: 'pong'
  }),
  "a pseudoterminal's master": cast<Socket>({
    method: 'toSocket',
    make: () => pty(0),
    async use(socket) {
      const [data] = (await once(socket, 'data')) as [Buffer]
      socket.write('pong')
      await once(socket, 'data') // its close discards what was not read
      const seen = halves(socket)
      socket.destroy()
      await once(socket, 'close')
      return `${seen} ${data.toString()}`
    },
    used: 'rw ping',
    answered: 'pong end'
  }),
  "a pseudoterminal's slave": cast<Socket>({
    method: 'toSocket',
    make: () => pty(1),
    use: async (socket) => `${halves(socket)} ${await pong(socket)}`,
    used: 'rw ping',
    answered: 'pong end'
  }),
  'a Unix stream socket': cast<UnixSocket>({
    method: 'toUnixSocket',
    make: () => unixPair('stream'),
    use: unixPong,
    used: 'stream ping',
    answered: 'pong end'
  }),
  'a Unix seqpacket socket': cast<UnixSocket>({
    method: 'toUnixSocket',
    make: () => unixPair('seqpacket'),
    use: unixPong,
    used: 'seqpacket ping',
    answered: 'pong end'
  }),
  'a Unix datagram socket': cast<UnixSocket>({
    method: 'toUnixSocket',
    make: () => unixPair('dgram'),
    use: unixPong,
    used: 'dgram ping',
    answered: 'pong ECONNREFUSED'
  })
}

/** Makes what a cast takes and sends it; resolves to what the other end has seen. */
export async function give(socket: UnixSocket, title: string): Promise<string> {
  const made = await casts[title]!.make()
  await socket.sendFd(made.source)
  await made.close()
  if (made.later) await socket.recv()
  return made.answer()
}

/** Receives a descriptor, casts it and uses it; resolves to what came of it. */
export async function take(socket: UnixSocket, title: string): Promise<string> {
  const { method, options, use } = casts[title]!
  const descriptor = (await socket.recvFd())!.fd!
  const object = await (descriptor[method] as (given?: object) => unknown)(options)
  try {
    return `still has its number: ${descriptor.fd}`
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code !== 'ERR_DESCRIPTOR_CLOSED') return code!
  }
  const used = await use(object)
  await socket.send('used').catch(() => {}) // most do not wait for it
  return used
}
