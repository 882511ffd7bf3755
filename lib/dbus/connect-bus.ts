import type { Abortable } from '../base/index.ts'
import { signalOf, optionsOf, invalidType, invalidValue } from '../base/internal.ts'
import { type UnixSocket, connect } from '../socket/index.ts'
import { DBusStream, type DBusStreamOptions } from './dbus-stream.ts'
import type { Address } from '../address/index.ts'

/** Options of {@link connectBus}. */
export interface ConnectBusOptions extends DBusStreamOptions, Abortable {}

/**
 * Connects to a D-Bus. The returned stream is unauthenticated: dbus-native authenticates over it, calls `Hello` and passes descriptors.
 *
 * A D-Bus address can name several sockets, which are tried in order. Supported are `unix:` addresses with `path`, `abstract` or
 * `runtime=yes`. Other transports carry no descriptors and are skipped.
 *
 * @param address `'session'` (default): `DBUS_SESSION_BUS_ADDRESS`, or `$XDG_RUNTIME_DIR/bus`; `'system'`: `DBUS_SYSTEM_BUS_ADDRESS`, or
 *   /var/run/dbus/system_bus_socket; or a D-Bus address, such as `unix:path=/run/x`
 * @param options `maxFds` of the {@link DBusStream}, `signal`
 * @returns resolves to the stream, which the caller must end or destroy
 *
 *   Rejects as `connect` does, with the error of the last address; ERR_INVALID_ARG_VALUE for a malformed address, or if no address
 *   names a Unix domain socket; AbortError
 */
export async function connectBus(address: string = 'session', options?: ConnectBusOptions): Promise<DBusStream> {
  const signal = signalOf(optionsOf(options))
  let failure: unknown
  for (const name of busAddresses(address)) {
    let socket: UnixSocket
    try {
      socket = await connect(name, { signal })
    } catch (error) {
      failure = error
      if (signal?.aborted === true) break
      continue
    }
    try {
      return new DBusStream(socket, options)
    } catch (error) {
      socket.close()
      throw error
    }
  }
  throw failure
}

/** The default address of the system bus (D-Bus Specification, "System message bus"). */
const SYSTEM_BUS = 'unix:path=/var/run/dbus/system_bus_socket'

/** Returns the addresses of the Unix domain sockets that a bus, or a D-Bus address, names. */
function busAddresses(bus: unknown): Address[] {
  if (typeof bus !== 'string') throw invalidType('address', 'of type string', bus)
  const { DBUS_SESSION_BUS_ADDRESS: session, DBUS_SYSTEM_BUS_ADDRESS: system, XDG_RUNTIME_DIR: runtime } = process.env
  let text = bus
  if (bus === 'system') {
    text = system || SYSTEM_BUS
  } else if (bus === 'session') {
    if (session) text = session
    else if (runtime) text = 'unix:runtime=yes'
    else throw invalidValue('address', "is 'session', and neither DBUS_SESSION_BUS_ADDRESS nor XDG_RUNTIME_DIR is set")
  }
  const addresses = text.split(';').filter((entry) => entry !== '')
  const found = addresses.flatMap((entry) => socketAddress(entry) ?? [])
  if (found.length === 0) {
    throw invalidValue(
      'address',
      `names no Unix domain socket by path, abstract or runtime; other transports carry no descriptors: ${text}`
    )
  }
  return found
}

/** Returns the address of the socket that one D-Bus address names; undefined for another transport. */
function socketAddress(entry: string): Address | undefined {
  const colon = entry.indexOf(':')
  if (colon <= 0)
    throw invalidValue('address', `must be 'session', 'system' or a D-Bus address such as unix:path=/run/x: ${entry}`)
  if (entry.slice(0, colon) !== 'unix') return undefined
  const values = new Map<string, string>()
  for (const pair of entry.slice(colon + 1).split(',')) {
    if (pair === '') continue
    const equals = pair.indexOf('=')
    const key = pair.slice(0, equals)
    if (equals <= 0 || values.has(key))
      throw invalidValue('address', `must consist of key=value pairs with different keys: ${entry}`)
    values.set(key, unescape(pair.slice(equals + 1), entry))
  }
  const path = values.get('path')
  const abstract = values.get('abstract')
  const runtime = values.get('runtime')
  if ([path, abstract, runtime].filter((value) => value !== undefined).length > 1) {
    throw invalidValue('address', `must have only one of path, abstract and runtime: ${entry}`)
  }
  if (path !== undefined) return path
  if (abstract !== undefined) return `\0${abstract}`
  if (runtime !== 'yes') return undefined // `dir` and `tmpdir` are for listening only
  const folder = process.env.XDG_RUNTIME_DIR
  if (!folder) throw invalidValue('address', `is relative to XDG_RUNTIME_DIR, which is not set: ${entry}`)
  return `${folder}/bus`
}

/** Decodes %-escapes, which stand for bytes of UTF-8. */
function unescape(value: string, entry: string): string {
  if (!value.includes('%')) return value
  if (/%(?![\dA-Fa-f]{2})/.test(value))
    throw invalidValue('address', `has a % without two hexadecimal digits: ${entry}`)
  const bytes = value
    .split(/(%..)/)
    .map((part) => (part.startsWith('%') ? Buffer.from(part.slice(1), 'hex') : Buffer.from(part)))
  return Buffer.concat(bytes).toString()
}
