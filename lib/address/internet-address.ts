import type { AddressInfo } from 'node:net'
import { takeName } from './unix-address.ts'
import { outcome } from '../native/shared-memory.ts'

/** The address that a native call has told; null for none. */
export function takeInternetAddress(length: number): AddressInfo | null {
  const address = takeName(length)
  if (address === null) return null
  return { address, family: address.includes(':') ? 'IPv6' : 'IPv4', port: outcome[0]! }
}
