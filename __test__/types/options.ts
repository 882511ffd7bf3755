import { Descriptor, UnixSocket, bind, connect, listen, recvFd, sendFd, socketpair } from 'fdpass'

// An option that is undefined is as one that is not there, whatever exactOptionalPropertyTypes says.
const signal = undefined
const receiving = { credentials: undefined, pidfd: undefined }
connect('/run/x', { type: undefined, localAddress: undefined, signal, ...receiving })
bind('/run/x', { mode: undefined, ...receiving })
listen('/run/x', { type: undefined, mode: undefined, backlog: undefined, descriptors: undefined, allow: undefined })
listen('/run/x', receiving)
const [socket] = socketpair({ type: undefined, ...receiving })
UnixSocket.from(3, receiving)
socket.send('text', { fds: undefined, to: undefined, credentials: undefined, signal })
socket.recv({ maxBytes: undefined, maxFds: undefined, signal })
socket.messages({ maxBytes: undefined, maxFds: undefined, signal })
sendFd(socket, Descriptor.from(3), undefined, { signal })
recvFd(socket, { maxBytes: undefined, signal })

// And so are options that are undefined.
connect('/run/x', undefined)
bind('/run/x', undefined)
listen('/run/x', undefined)
socketpair(undefined)
UnixSocket.from(3, undefined)
socket.send('text', undefined)
socket.recv(undefined)
socket.messages(undefined)
sendFd(socket, 3, undefined, undefined)
recvFd(socket, undefined)

// null is nothing.
// @ts-expect-error
connect('/run/x', null)
// @ts-expect-error
bind('/run/x', null)
// @ts-expect-error
listen('/run/x', null)
// @ts-expect-error
socketpair(null)
// @ts-expect-error
socket.send('text', null)
// @ts-expect-error
socket.recv(null)
// @ts-expect-error
socket.recv({ signal: null })
