// What this room offers to the rooms above it, and not to users.
export { carrierMissing, isControlError, notAllowed, socketClosed, untrusted } from './errors.ts'
export { type ListenSource, type Source, isDatagram, listenerSourceOf, sourceOf } from './listen-source.ts'
export { ListeningSocket } from './listening-socket.ts'
export { serveConnections, warnOfService } from './serving.ts'
export { openSocket } from './unix-socket.ts'
