/**
 * D-Bus with descriptors: the stream by which dbus-native, which speaks the protocol, sends and receives them.
 *
 * - To a bus: {@link connectBus}
 * - Over a socket that is connected already: {@link DBusStream}
 *
 * @module dbus
 */
export { connectBus } from './lib/dbus/connect-bus.ts'
export { DBusStream } from './lib/dbus/dbus-stream.ts'
