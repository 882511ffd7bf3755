/**
 * D-Bus with descriptors: a stream through which dbus-native, which implements the protocol, sends and receives them.
 *
 * - To a bus: {@link connectBus}
 * - Over a connected socket: {@link DBusStream}
 *
 * @module fdpass/dbus
 */
import '../socket/index.ts' // adds the casts to Descriptor
export { connectBus } from './connect-bus.ts'
export { DBusStream } from './dbus-stream.ts'
