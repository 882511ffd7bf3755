import { isAbsolute } from 'node:path'
import { addressOf, parseListenAddress } from '../address/internal.ts'
import { invalidType, invalidValue } from '../base/internal.ts'

/** An address to connect to or to listen on. Addresses of the same name are the same. */
export type ServiceAddress =
  | { readonly name: string; readonly path: string }
  | { readonly name: string; readonly host: string; readonly port: number }

/** Parses the address of a service: `tcp:HOST:PORT`, `unix:PATH`, or a path alone. */
export function parseService(argument: string, value: unknown, syscall: string): ServiceAddress {
  if (typeof value !== 'string') throw invalidType(argument, 'of type string', value)
  if (value.startsWith('tcp:')) return tcpService(argument, value)
  const path = value.startsWith('unix:') ? value.slice('unix:'.length) : value
  addressOf(argument, path, syscall)
  if (!isAbsolute(path) && !path.startsWith('\0')) {
    throw invalidValue(
      argument,
      `must be 'tcp:HOST:PORT', or an absolute path or abstract address. Received '${value}'`
    )
  }
  return { name: path, path }
}

function tcpService(argument: string, value: string): ServiceAddress {
  const address = parseListenAddress(argument, value, ['tcp'])
  if (address.kind !== 'tcp' || address.host === undefined) {
    throw invalidValue(argument, `must be 'tcp:HOST:PORT', an IPv6 address in brackets. Received '${value}'`)
  }
  const { host, port } = address
  return { name: `tcp:${host}:${port}`, host, port }
}
