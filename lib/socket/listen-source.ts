import { addressOfSocket } from '../address/socket-address.ts'
import { formatInternet, parseListenAddress } from '../address/listen-address.ts'
import { invalidType, invalidValue } from '../base/errors.ts'
import { integer } from '../base/validate.ts'
import { borrow } from '../descriptor/fd-source.ts'
import { Descriptor } from '../descriptor/descriptor.ts'
import { type Kind, kindOf } from '../descriptor/kind.ts'
import type { TcpListenerOptions, UnixListenerOptions } from './bind-listener.ts'

/**
 * A socket to listen on:
 *
 * - `'tcp:HOST:PORT'`: an IPv6 address stands in brackets, port 0 is a free port; `'tcp:PORT'` is every address of this machine
 * - `'udp:HOST:PORT'`: likewise, for datagrams
 * - `'unix:PATH'`: an absolute path; `'unix:\0name'` for an abstract address
 * - `'fd:N'`: the descriptor number of a listening or datagram socket, which stays open
 * - a `Descriptor` of a listening or datagram socket, such as one from `listenFds()` of `fdpass/systemd`; it stays the caller's
 */
export type ListenSource = string | Descriptor

/** A validated {@link ListenSource}. `name` identifies the socket: sources of the same name are the same socket. */
export type Source = { readonly name: string } & ListenerChoices &
  (
    | { readonly kind: 'tcp' | 'udp'; readonly host: string | undefined; readonly port: number }
    | { readonly kind: 'unix'; readonly path: string }
    | { readonly kind: 'descriptor'; readonly descriptor: Descriptor | number; readonly isDatagram: boolean }
  )

/** The options of a listener, as far as they apply to its kind. */
type ListenerChoices = Pick<TcpListenerOptions, 'backlog' | 'ipv6Only' | 'reusePort'> &
  Pick<UnixListenerOptions, 'mode' | 'owner' | 'group'>

type ListenerOptions = ListenerChoices & {
  readonly source?: unknown
  readonly path?: string
  readonly port?: number
  readonly host?: string
}

/** Validates a {@link ListenSource}. */
export function sourceOf(argument: string, value: unknown): Source {
  if (value instanceof Descriptor) return descriptorSource(argument, value)
  if (typeof value !== 'string') throw invalidType(argument, 'of type string or an instance of Descriptor', value)
  const address = parseListenAddress(argument, value, ['tcp', 'udp', 'unix', 'fd'])
  return address.kind === 'fd' ? descriptorSource(argument, address.fd) : { name: value, ...address }
}

/** Validates a {@link ListenSource}, one with `backlog` and `mode`, or the options of `bindListener`. */
export function listenerSourceOf(argument: string, value: unknown): Source {
  if (typeof value !== 'object' || value === null || value instanceof Descriptor) return sourceOf(argument, value)
  const { source, path, port, host, ...choices } = value as ListenerOptions
  if ([source, path, port].filter((given) => given !== undefined).length !== 1) {
    throw invalidValue(argument, "must have either 'source', 'port' or 'path'")
  }
  if (source !== undefined) return { ...sourceOf(`${argument}.source`, source), ...choices }
  if (path !== undefined) return { ...sourceOf(`${argument}.path`, `unix:${path}`), ...choices }
  integer(`${argument}.port`, port, 0, 65_535)
  return { ...sourceOf(`${argument}.host`, formatInternet('tcp', host, port!)), ...choices }
}

const listening: ReadonlySet<Kind> = new Set(['tcp-listener', 'unix-listener'] as const)
const datagrams: ReadonlySet<Kind> = new Set(['udp', 'unix-dgram'] as const)

function descriptorSource(argument: string, descriptor: Descriptor | number): Source {
  const kind = kindOf(sourceFd(descriptor))
  if (!listening.has(kind) && !datagrams.has(kind)) {
    throw invalidValue(argument, `must listen, or be of datagrams: it is of kind '${kind}'`)
  }
  const name = nameOf(sourceFd(descriptor), kind)
  return { name, kind: 'descriptor', descriptor, isDatagram: datagrams.has(kind) }
}

/** Returns the number of a source's descriptor. */
export function sourceFd(descriptor: Descriptor | number): number {
  return typeof descriptor === 'number' ? descriptor : descriptor[borrow]()
}

function nameOf(fd: number, kind: Kind): string {
  const address = addressOfSocket(fd)
  if (address === null) return `descriptor:${fd}`
  if (typeof address === 'string') return `unix:${address}`
  return formatInternet(kind === 'udp' ? 'udp' : 'tcp', address.address, address.port)
}

/** Returns whether a source is a datagram socket. */
export function isDatagram(source: Source): boolean {
  return source.kind === 'descriptor' ? source.isDatagram : source.kind === 'udp'
}
