// What this room offers to the rooms above it, and not to users.
export { carrierMissing, isControlError, notAllowed, socketClosed, untrusted } from './errors.ts'
export { type ListenSource, Listening, type Source, isDatagram, listenerSourceOf, sourceOf } from './listening.ts'
export { serveConnections, warnOfService } from './serving.ts'
export { openSocket } from './unix-socket.ts'
