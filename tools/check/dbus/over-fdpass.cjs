// Loaded before dbus-native's tests: its connections to Unix domain sockets become DBusStreams. `net.createConnection` returns its socket
// synchronously, so this connects with the calls below `connect`.
const net = require('node:net')
const { join } = require('node:path')

const dist = join(__dirname, '..', '..', '..', 'dist')
const { DBusStream } = require(join(dist, 'lib/dbus/index.js'))
const { addressOf, putName } = require(join(dist, 'lib/address/unix-address.js'))
const { closeFds } = require(join(dist, 'lib/descriptor/descriptor.js'))
const binding = require(join(dist, 'lib/native/binding.js'))
const { openReactor } = require(join(dist, 'lib/event-loop/reactor.js'))
const { makeSocket, openSocket } = require(join(dist, 'lib/socket/unix-socket.js'))

const STREAM = 0
const { createConnection } = net

net.createConnection = (...args) => {
  const path = typeof args[0] === 'string' ? args[0] : args[0]?.path
  if (path === undefined) return createConnection(...args)
  openReactor()
  const fd = makeSocket(STREAM, 0)
  if (binding.native.connect(fd, putName(addressOf('path', path, 'connect'))) < 0) {
    closeFds([fd])
    return createConnection(...args) // reports its own error
  }
  const stream = new DBusStream(openSocket(fd, STREAM))
  process.nextTick(() => stream.emit('connect')) // some tests await the event of net.Socket
  return stream
}
