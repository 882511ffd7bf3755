import type { AddressInfo } from 'node:net'
import { native } from '../native/binding.ts'

/** Returns the address of an Internet socket, or of its peer; null if it has none. */
export function internetAddressOf(fd: number, of: 'socket' | 'peer' = 'socket'): AddressInfo | null {
  const found = native.internetAddress(fd, of === 'peer')
  if (typeof found === 'number') return null
  return { ...found, family: found.address.includes(':') ? 'IPv6' : 'IPv4' }
}
