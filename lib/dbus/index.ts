/**
 * D-Bus with descriptors: the stream by which dbus-native, which speaks the protocol, sends and receives them.
 *
 * - To a bus: {@link connectBus}
 * - Over a socket that is connected already: {@link DBusStream}
 *
 * @module fdpass/dbus
 */
import '../socket/index.ts' // adds the casts to Descriptor
export { connectBus } from './connect-bus.ts'
export { DBusStream } from './dbus-stream.ts'
