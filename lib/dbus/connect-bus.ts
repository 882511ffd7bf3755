import type { Abortable } from '../base/index.ts'
import { signalOf, optionsOf } from '../base/internal.ts'
import { connect } from '../socket/index.ts'
import { busAddresses } from './bus-address.ts'
import { DBusStream } from './dbus-stream.ts'

/**
 * Connects to a D-Bus. The returned stream is unauthenticated: dbus-native authenticates over it, calls `Hello` and passes descriptors.
 *
 * A D-Bus address can name several sockets, which are tried in order. Supported are `unix:` addresses with `path`, `abstract` or
 * `runtime=yes`. Other transports carry no descriptors and are skipped.
 *
 * @param address `'session'` (default): `DBUS_SESSION_BUS_ADDRESS`, or `$XDG_RUNTIME_DIR/bus`; `'system'`: `DBUS_SYSTEM_BUS_ADDRESS`, or
 *   /var/run/dbus/system_bus_socket; or a D-Bus address, such as `unix:path=/run/x`
 * @param options `signal`
 * @returns resolves to the stream, which the caller must end or destroy
 *
 *   Rejects as `connect` does, with the error of the last address; ERR_INVALID_ARG_VALUE for a malformed address, or if no address
 *   names a Unix domain socket; AbortError
 */
export async function connectBus(address: string = 'session', options?: Abortable): Promise<DBusStream> {
  const signal = signalOf(optionsOf(options))
  let failure: unknown
  for (const name of busAddresses(address)) {
    try {
      return new DBusStream(await connect(name, { signal }))
    } catch (error) {
      failure = error
      if (signal?.aborted === true) break
    }
  }
  throw failure
}
