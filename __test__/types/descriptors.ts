import { type Socket as DatagramSocket, createSocket } from 'node:dgram'
import { EventEmitter } from 'node:events'
import { type ReadStream, type WriteStream, createReadStream, createWriteStream } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import { Server as HttpServer } from 'node:http'
import { type AddressInfo, Server, Socket } from 'node:net'
import { TLSSocket } from 'node:tls'
import {
  type Address,
  Descriptor,
  type FdHolder,
  type FdSource,
  type Kind,
  type Seal,
  type UnixServer,
  type UnixSocket,
  bindListener,
  connectTcp,
  memfd,
  pipe
} from 'fdpass'
import { exactly, same } from './exports.ts'

declare const socket: UnixSocket
declare const server: UnixServer

const descriptor = Descriptor.from(3)
exactly<Descriptor>()(descriptor)
exactly<number>()(descriptor.fd)
exactly<Descriptor>()(descriptor.duplicate())
exactly<number>()(descriptor.release())
exactly<Promise<void>>()(descriptor.close())
exactly<void>()(descriptor.closeSync())

// @ts-expect-error
descriptor.fd = 4
// @ts-expect-error
new Descriptor()
// @ts-expect-error
new Descriptor(3)
// @ts-expect-error
export class Derived extends Descriptor {}
// @ts-expect-error
Descriptor.from()
// @ts-expect-error
Descriptor.from('3')
// @ts-expect-error
Descriptor.from(descriptor)
// @ts-expect-error
Descriptor.from(null)

// What looks like one is none.
// @ts-expect-error
export const forged: Descriptor = { fd: 3, duplicate: descriptor.duplicate, release: descriptor.release }

export async function disposed() {
  using now = Descriptor.from(3)
  await using later = now.duplicate()
  return [now.fd, later.fd]
}

same<FdSource, number | FdHolder | FileHandle | ReadStream | WriteStream | Socket | Server | DatagramSocket>()

export const sources: FdSource[] = [
  3,
  descriptor,
  socket,
  server,
  await open('file'),
  createReadStream('file'),
  createWriteStream('file'),
  new Socket(),
  new TLSSocket(new Socket()), // refused only when it runs: it is a net.Socket
  new Server(),
  new HttpServer(),
  createSocket('udp4')
]
// @ts-expect-error
export const text: FdSource = '3'
// @ts-expect-error
export const object: FdSource = { fd: 3 }
// @ts-expect-error
export const emitter: FdSource = new EventEmitter()
// @ts-expect-error
export const nothing: FdSource = null
// @ts-expect-error
export const promised: FdSource = open('file')

exactly<Kind>()(descriptor.kind)
exactly<AddressInfo | Address | null>()(descriptor.address)
exactly<readonly Seal[]>()(descriptor.seals)
exactly<void>()(descriptor.seal(['write']))
exactly<void>()(descriptor.setBlocking(true))
// @ts-expect-error
descriptor.kind = 'file'
// @ts-expect-error
if (descriptor.kind === 'pipe') descriptor.closeSync()
// @ts-expect-error
descriptor.seal('write')
// @ts-expect-error
descriptor.seal(['read'])
// @ts-expect-error
descriptor.setBlocking()
// @ts-expect-error
descriptor.setBlocking(1)

exactly<Socket>()(descriptor.toSocket())
exactly<Socket>()(descriptor.toSocket({ allowHalfOpen: true }))
exactly<Promise<Server>>()(descriptor.toServer())
exactly<Promise<Server>>()(descriptor.toServer({ pauseOnConnect: true }))
exactly<DatagramSocket>()(descriptor.toDatagramSocket())
exactly<ReadStream>()(descriptor.toReadStream({ start: 0, highWaterMark: 1024 }))
exactly<WriteStream>()(descriptor.toWriteStream({ start: undefined }))
exactly<UnixSocket>()(descriptor.toUnixSocket())
exactly<UnixServer>()(descriptor.toUnixServer())
// @ts-expect-error
descriptor.toSocket({ allowHalfOpen: 'yes' })
// @ts-expect-error
descriptor.toReadStream('utf8')
// @ts-expect-error
descriptor.toReadStream({ fd: 3 })
// @ts-expect-error
descriptor.toUnixSocket({ credentials: true })
// @ts-expect-error
descriptor.toServer().address()

exactly<[read: Descriptor, write: Descriptor]>()(pipe())
exactly<Descriptor>()(memfd())
exactly<Descriptor>()(memfd({ name: 'x', data: new Uint8Array(1), size: 10, seals: ['write', 'grow'] }))
// @ts-expect-error
memfd('x')
// @ts-expect-error
memfd({ seals: ['everything'] })
// @ts-expect-error
memfd({ data: 5 })

exactly<Descriptor>()(bindListener({ port: 0 }))
exactly<Descriptor>()(bindListener({ host: '::1', port: 80, ipv6Only: true, reusePort: true, backlog: 10 }))
exactly<Descriptor>()(bindListener({ path: '/run/x', mode: 0o600 }))
// @ts-expect-error
bindListener()
// @ts-expect-error
bindListener({})
// @ts-expect-error
bindListener({ host: '::1' })
// @ts-expect-error
bindListener({ port: 80, path: '/run/x' })
// @ts-expect-error
bindListener({ port: 80, mode: 0o600 })
// @ts-expect-error
bindListener({ path: '/run/x', reusePort: true })
// @ts-expect-error
bindListener({ port: '80' })

exactly<Promise<Descriptor>>()(connectTcp({ host: '::1', port: 80 }))
exactly<Promise<Descriptor>>()(
  connectTcp({ host: '::1', port: 80, localAddress: '::1', signal: AbortSignal.timeout(1) })
)
// @ts-expect-error
connectTcp({ port: 80 })
// @ts-expect-error
connectTcp({ host: '::1', port: '80' })
