import type { Socket as DatagramSocket } from 'node:dgram'
import type { Server } from 'node:net'
import { resolve } from 'node:path'
import type { PassedSocket } from '../superserver/internal.ts'

/** A server of the program that has taken a passed socket. */
export interface TakingServer {
  readonly server: Server
  /** The address that it listens on; null for every address. */
  readonly address: string | null
}

/** A socket that was passed to this process, and the servers of the program that have taken it. */
export interface PassedSource<T extends TakingServer = TakingServer> {
  readonly socket: PassedSocket
  readonly takers: Set<T>
}

/** A datagram socket that was passed to this process, and the socket of the program that has taken it. */
export interface DatagramSource {
  readonly socket: PassedSocket
  taker: DatagramSocket | undefined
}

/** What a server of the program listens on, as Node has understood it. */
export interface Wanted {
  readonly path: string | undefined
  /** Null for every address. */
  readonly address: string | null
  readonly port: number | null
}

const wildcards = new Set<string | null | undefined>([null, undefined, '0.0.0.0', '::'])

/** Returns whether an address is every address of the machine. */
export function isWildcard(address: string | null | undefined): boolean {
  return wildcards.has(address)
}

/** Returns whether two addresses of a server are the same: every address of the machine has several names. */
export function isSameAddress(one: string | null, other: string | null): boolean {
  return one === other || (isWildcard(one) && isWildcard(other))
}

/** Returns the passed socket in whose place a server listens; undefined if there is none, so that it listens itself. */
export function matchSource<S extends PassedSource>(sources: readonly S[], wanted: Wanted): S | undefined {
  return wanted.path === undefined ? matchPort(sources, wanted) : matchPath(sources, wanted.path)
}

function matchPort<S extends PassedSource>(sources: readonly S[], { address, port }: Wanted): S | undefined {
  if (port === null || port <= 0) return undefined
  const same = sources.filter(({ socket: { as, port: own } }) => (as ?? own) === port)
  return (
    same.find(({ socket }) => socket.address === address) ??
    same.find(({ socket }) => isWildcard(socket.address) && socket.path === undefined) ??
    same[0] ??
    sources.find(({ socket, takers }) => socket.as === '*' && takers.size === 0)
  )
}

/** Returns the passed datagram socket in whose place one of the program binds; undefined if there is none that is free. */
export function matchDatagrams<S extends DatagramSource>(
  sources: readonly S[],
  { address, port }: Pick<Wanted, 'address'> & { readonly port: number }
): S | undefined {
  const free = port === 0 ? [] : sources.filter(({ taker }) => taker === undefined)
  const same = free.filter(({ socket: { as, port: own } }) => (as ?? own) === port)
  return (
    same.find(({ socket }) => socket.address === address) ??
    same.find(({ socket }) => isWildcard(socket.address)) ??
    same[0] ??
    free.find(({ socket }) => socket.as === '*')
  )
}

function matchPath<S extends PassedSource>(sources: readonly S[], path: string): S | undefined {
  const isAbstract = path.startsWith('\0')
  const same = ({ socket }: PassedSource) =>
    socket.as === undefined &&
    (socket.path === path || (!isAbstract && socket.path !== undefined && resolve(socket.path) === resolve(path)))
  return sources.find(same) ?? sources.find(({ socket, takers }) => socket.as === '*' && takers.size === 0)
}

/** Returns what a datagram socket is bound to, as a message names it. */
export function displayDatagrams(wanted: { readonly port: number; readonly address: string | null }): string {
  return displayWanted({ ...wanted, path: undefined }).replace('tcp:', 'udp:')
}

/** Returns what a server listens on, as a message names it. */
export function displayWanted({ path, address, port }: Wanted): string {
  if (path !== undefined) return `unix:${path.replace('\0', '@')}`
  return isWildcard(address) ? `tcp:${port}` : `tcp:${address!.includes(':') ? `[${address}]` : address}:${port}`
}
