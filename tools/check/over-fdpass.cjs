// Loaded before dbus-native's tests: its connections to Unix domain sockets become DBusStreams. `net.createConnection` returns its socket
// synchronously, so this connects with the calls below `connect`.
const net = require('node:net')
const { join } = require('node:path')

const dist = join(__dirname, '..', '..', 'dist')
const { DBusStream } = require(join(dist, 'lib/dbus/index.js'))
const { addressOf } = require(join(dist, 'lib/address/socket-address.js'))
const { closeFds } = require(join(dist, 'lib/native/owned-fds.js'))
const binding = require(join(dist, 'lib/native/binding.js'))
const { openReactor } = require(join(dist, 'lib/event-loop/reactor.js'))
const { makeSocket } = require(join(dist, 'lib/socket/new-socket.js'))
const { openSocket } = require(join(dist, 'lib/socket/unix-socket.js'))

const { createConnection } = net

net.createConnection = (...args) => {
  const path = typeof args[0] === 'string' ? args[0] : args[0]?.path
  if (path === undefined) return createConnection(...args)
  openReactor()
  const fd = makeSocket('stream')
  if (binding.native.connect(fd, addressOf('path', path, 'connect')) < 0) {
    closeFds([fd])
    return createConnection(...args) // reports its own error
  }
  const stream = new DBusStream(openSocket(fd, 'stream'))
  process.nextTick(() => stream.emit('connect')) // some tests await the event of net.Socket
  return stream
}
