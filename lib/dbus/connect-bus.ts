import type { Abortable } from '../base/index.ts'
import { signalOf, optionsOf } from '../base/internal.ts'
import { connect } from '../socket/index.ts'
import { busAddresses } from './bus-address.ts'
import { DBusStream } from './dbus-stream.ts'

/**
 * Connect to a D-Bus, as the stream over which dbus-native authenticates, says hello and passes descriptors.
 *
 * Of several addresses the first is taken that somebody listens on. Of `unix:` addresses `path`, `abstract` and `runtime=yes` are known;
 * other transports carry no descriptors, and are passed over.
 *
 * @param address `'session'` (default): `DBUS_SESSION_BUS_ADDRESS`, or `$XDG_RUNTIME_DIR/bus`; `'system'`: `DBUS_SYSTEM_BUS_ADDRESS`, or
 *   /var/run/dbus/system_bus_socket; or a D-Bus address, such as `unix:path=/run/x`
 * @param options `signal`
 * @returns resolves to the stream, which is the caller's to end or destroy
 *
 *   Rejects as `connect` does, with the error of the last address; ERR_INVALID_ARG_VALUE for a malformed address and where none of
 *   them names a Unix domain socket; AbortError
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
