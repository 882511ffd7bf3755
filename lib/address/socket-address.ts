import { constants } from 'node:os'
import { invalidType, invalidValue } from '../base/errors.ts'
import { MAX_PATH } from '../native/codes.ts'
import { name } from '../native/shared-memory.ts'
import { native } from '../native/binding.ts'
import type { AddressInfo } from 'node:net'

/**
 * The address of a Unix domain socket: a path, or, with a leading `'\0'`, a name in Linux' abstract namespace, as in Node's `net`.
 *
 * A path has at most 107 bytes (103 on macOS and FreeBSD), an abstract address 108 including its `'\0'`. Other programs may bind bytes
 * that are not UTF-8: they are shown as U+FFFD.
 */
export type Address = string

/** Returns the bytes of an address argument; `syscall` is named by an ENAMETOOLONG error. */
export function addressOf(argument: string, value: unknown, syscall: string): Uint8Array {
  if (typeof value !== 'string') throw invalidType(argument, 'of type string', value)
  if (value === '') throw invalidValue(argument, 'must not be empty')
  const bytes = Buffer.from(value)
  const isAbstract = bytes[0] === 0
  if (isAbstract && process.platform !== 'linux' && process.platform !== 'android') {
    throw invalidValue(argument, "must be a path: abstract addresses are Linux'")
  }
  if (!isAbstract && bytes.includes(0)) throw invalidValue(argument, 'must not contain a NUL, which would end the path')
  const most = isAbstract ? MAX_PATH + 1 : MAX_PATH
  if (bytes.length > most) throw tooLong(argument, value, bytes.length, most, syscall)
  return bytes
}

function tooLong(argument: string, address: string, length: number, most: number, syscall: string): Error {
  const kind = argument.includes('.') ? 'property' : 'argument'
  const text = `the "${argument}" ${kind} has ${length} bytes, the platform's limit for a socket's address is ${most}`
  const error = new Error(`ENAMETOOLONG: ${text}, ${syscall}`)
  return Object.assign(error, { code: 'ENAMETOOLONG', errno: -constants.errno.ENAMETOOLONG, syscall, address })
}

/** Returns a host argument that must be an IP address. */
export function ipAddressOf(argument: string, host: unknown): string {
  if (typeof host !== 'string') throw invalidType(argument, 'of type string', host)
  if (process.getBuiltinModule('node:net').isIP(host) !== 0 && !host.includes('%')) return host
  throw invalidValue(argument, `must be an IP address without a zone, as names are not looked up. Received '${host}'`)
}

/** Puts an address where the native calls expect it; returns its length. */
export function putName(address: Uint8Array): number {
  name.set(address)
  return address.length
}

/** Returns the address of a socket; null if it has none. */
export function localAddressOf(fd: number): Address | null {
  return addressOrNull(native.localAddress(fd))
}

/** Returns the address of a socket's peer; null if it has none. */
export function remoteAddressOf(fd: number): Address | null {
  return addressOrNull(native.remoteAddress(fd))
}

function addressOrNull(address: Address | null | number): Address | null {
  return typeof address === 'number' ? null : address
}

/** Returns the address that a native call has put into the shared memory; null for a socket without an address. */
export function takeName(length: number): Address | null {
  return length > 0 ? Buffer.from(name.buffer, name.byteOffset, length).toString() : null
}

/** Returns the address of an Internet socket, or of its peer; null if it has none. */
export function internetAddressOf(fd: number, of: 'socket' | 'peer' = 'socket'): AddressInfo | null {
  const found = native.internetAddress(fd, of === 'peer')
  if (typeof found === 'number') return null
  return { ...found, family: found.address.includes(':') ? 'IPv6' : 'IPv4' }
}

/** Returns the address of a socket of any family; null for one without an address. */
export function addressOfSocket(fd: number): AddressInfo | Address | null {
  return internetAddressOf(fd) ?? localAddressOf(fd)
}
