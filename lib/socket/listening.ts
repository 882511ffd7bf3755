import { lookup } from 'node:dns/promises'
import { type AddressInfo, isIP } from 'node:net'
import { isAbsolute } from 'node:path'
import { addressOf, putName, takeName } from '../address/unix-address.ts'
import { backlogOf, integer } from '../base/validate.ts'
import { type TcpListenerOptions, type UnixListenerOptions, bindListener } from './bind-listener.ts'
import { Descriptor, takeFd, wrapFd } from '../descriptor/descriptor.ts'
import { closeFds } from '../native/owned-fds.ts'
import { invalidType, invalidValue } from '../base/errors/argument.ts'
import { systemError } from '../native/system-error.ts'
import { borrow } from '../descriptor/borrow.ts'
import { takeInternetAddress } from '../address/internet-address.ts'
import type { Kind } from '../descriptor/kind.ts'
import { fds } from '../native/shared-memory.ts'
import { native } from '../native/binding.ts'
import { giveNameLater } from '../address/socket-file.ts'
import { makeSocket } from './unix-socket.ts'

/**
 * What is listened on: `'tcp:HOST:PORT'` (an IPv6 address in brackets; `'tcp:PORT'` for every address of this machine; port 0
 * for a free one), `'udp:HOST:PORT'`, `'unix:PATH'` (`'unix:\0name'` for an abstract address); or a descriptor of a socket that
 * listens or of datagrams, which stays the caller's: what `listenFds()` of `fdpass/systemd` gave, for one.
 */
export type ListenSource = string | Descriptor

/** What is listened on, as it was named. */
export type Source = { readonly name: string } & (
  | { readonly kind: 'udp'; readonly host: string | undefined; readonly port: number }
  | ({ readonly kind: 'tcp'; readonly host: string | undefined; readonly port: number } & TcpChoices)
  | ({ readonly kind: 'unix'; readonly path: string } & UnixChoices)
  | { readonly kind: 'descriptor'; readonly descriptor: Descriptor }
)

type TcpChoices = Pick<TcpListenerOptions, 'backlog' | 'ipv6Only' | 'reusePort'>
type UnixChoices = Pick<UnixListenerOptions, 'backlog' | 'mode'>

const form = "'tcp:HOST:PORT', 'udp:HOST:PORT' or 'unix:PATH', or a Descriptor"

/** What an argument names. */
export function sourceOf(argument: string, value: unknown): Source {
  if (value instanceof Descriptor) return descriptorSource(argument, value)
  if (typeof value !== 'string') throw invalidType(argument, 'of type string or an instance of Descriptor', value)
  if (value.startsWith('unix:')) {
    const path = value.slice('unix:'.length)
    addressOf(argument, path, 'bind')
    if (!isAbsolute(path) && !path.startsWith('\0')) {
      throw invalidValue(argument, `must have an absolute path or an abstract address. Received '${value}'`)
    }
    return { name: value, kind: 'unix', path }
  }
  const parts = /^(?<kind>tcp|udp):(?:(?:\[(?<ipv6>[^\]]+)\]|(?<host>[^:[\]]+)):)?(?<port>\d{1,5})$/.exec(value)?.groups
  const port = Number(parts?.port)
  if (parts === undefined || port > 65_535 || (parts.ipv6 !== undefined && isIP(parts.ipv6) !== 6)) {
    throw invalidValue(argument, `must be ${form}, an IPv6 address in brackets. Received '${value}'`)
  }
  const host = parts.host === '*' ? undefined : (parts.host ?? parts.ipv6)
  return { name: value, kind: parts.kind as 'tcp' | 'udp', host, port }
}

/** As `sourceOf`, of what may also be said as it is to `bindListener`. */
export function listenerSourceOf(argument: string, value: unknown): Source {
  if (typeof value !== 'object' || value === null || value instanceof Descriptor) return sourceOf(argument, value)
  const { path, port, host, ...choices } = value as Partial<TcpListenerOptions> & Partial<UnixListenerOptions>
  if ((path === undefined) === (port === undefined)) {
    throw invalidValue(argument, "must have either 'port' or 'path'")
  }
  if (path !== undefined) return { ...sourceOf(`${argument}.path`, `unix:${path}`), ...choices } as Source
  integer(`${argument}.port`, port, 0, 65_535)
  const name = host === undefined ? `tcp:${port}` : `tcp:${isIP(host) === 6 ? `[${host}]` : host}:${port}`
  return { ...sourceOf(`${argument}.host`, name), ...choices } as Source
}

const listening: ReadonlySet<Kind> = new Set(['tcp-listener', 'unix-listener'] as const)
const datagrams: ReadonlySet<Kind> = new Set(['udp', 'unix-dgram'] as const)

function descriptorSource(argument: string, descriptor: Descriptor): Source {
  const { kind } = descriptor
  if (!listening.has(kind) && !datagrams.has(kind)) {
    throw invalidValue(argument, `must listen, or be of datagrams: it is of kind '${kind}'`)
  }
  return { name: nameOf(descriptor[borrow](), kind), kind: 'descriptor', descriptor }
}

function nameOf(fd: number, kind: Kind): string {
  const address = addressOfSocket(fd)
  if (address === null) return `descriptor:${fd}`
  if (typeof address === 'string') return `unix:${address}`
  const host = address.family === 'IPv6' ? `[${address.address}]` : address.address
  return `${kind === 'udp' ? 'udp' : 'tcp'}:${host}:${address.port}`
}

/** The address of a socket of any family. */
function addressOfSocket(fd: number): AddressInfo | string | null {
  const length = native.internetAddress(fd, 0)
  if (length > 0) return takeInternetAddress(length)
  native.socketType(fd) // makes it known as a socket of ours
  const name = native.localName(fd)
  return name > 0 ? takeName(name) : null
}

/** Whether a source is of datagrams. */
export function isDatagram(source: Source): boolean {
  if (source.kind !== 'descriptor') return source.kind === 'udp'
  return datagrams.has(source.descriptor.kind)
}

/** A socket that is listened on; the native side owns its number. */
export class Listening {
  readonly name: string
  readonly fd: number
  readonly address: AddressInfo | string | null
  #closed = false

  private constructor(name: string, fd: number) {
    this.name = name
    this.fd = fd
    this.address = addressOfSocket(fd)
  }

  /** Opens what a source names; of a descriptor a duplicate. */
  static async open(source: Source, backlog?: number, mode?: number): Promise<Listening> {
    return new Listening(source.name, await openSource(source, backlog, mode))
  }

  /** What another process had open; a descriptor that is this one's from now on. */
  static takeOver(name: string, descriptor: Descriptor): Listening {
    return new Listening(name, takeFd(descriptor))
  }

  /** A second descriptor of it. */
  duplicate(): Descriptor {
    return wrapFd(duplicateOf(this.fd))
  }

  /** Closes it, once: two services may have it. The file of a socket that was made here is removed. */
  close(): void {
    if (this.#closed) return
    this.#closed = true
    closeFds([this.fd])
  }
}

async function openSource(source: Source, backlog: number | undefined, mode: number | undefined): Promise<number> {
  switch (source.kind) {
    case 'descriptor':
      return duplicateOf(source.descriptor[borrow]())
    case 'unix':
      return openUnix(source.path, source.backlog ?? backlog, source.mode ?? mode)
    case 'udp': {
      const host = (await hostOf(source.host)) ?? '::'
      let fd = native.udpSocket(putName(Buffer.from(host)), source.port)
      if (fd < 0 && source.host === undefined) fd = native.udpSocket(putName(Buffer.from('0.0.0.0')), source.port)
      if (fd < 0) throw systemError(fd, 'bind', source.name)
      return fd
    }
    case 'tcp': {
      const { port, ipv6Only, reusePort } = source
      const host = await hostOf(source.host)
      return takeFd(bindListener({ port, host, ipv6Only, reusePort, backlog: source.backlog ?? backlog }))
    }
  }
}

function duplicateOf(fd: number): number {
  fds[0] = fd
  const code = native.duplicate(1)
  if (code < 0) throw systemError(code, 'fcntl')
  return fds[0]!
}

/** The IP address of a host; names are looked up. */
async function hostOf(host: string | undefined): Promise<string | undefined> {
  return host === undefined || isIP(host) !== 0 ? host : (await lookup(host)).address
}

async function openUnix(path: string, backlog: number | undefined, mode: number | undefined): Promise<number> {
  const STREAM = 0
  const fd = makeSocket(STREAM, 0)
  try {
    const isFile = !path.startsWith('\0')
    await giveNameLater(fd, addressOf('path', path, 'bind'), isFile ? (mode ?? -1) : -1)
    const code = native.listen(fd, backlogOf(backlog), 1)
    if (code < 0) throw systemError(code, 'listen', path)
    return fd
  } catch (error) {
    closeFds([fd])
    throw error
  }
}
