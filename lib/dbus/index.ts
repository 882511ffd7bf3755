/**
 * D-Bus with descriptors: a stream through which dbus-native, which implements the protocol, sends and receives them.
 *
 * - To a bus: {@link connectBus}
 * - Over a connected socket: {@link DBusStream}
 *
 * @module fdpass/dbus
 */
import '../stream/index.ts' // adds the casts to Descriptor and UnixSocket
export { type ConnectBusOptions, connectBus } from './connect-bus.ts'
export { DBusStream, type DBusStreamOptions } from './dbus-stream.ts'
