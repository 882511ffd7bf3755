// What this room offers to the rooms above it, and not to users.
export { type AcceptShape, Acceptor } from './acceptor.ts'
export {
  type ConnectionLimits,
  type ServiceConnection,
  ServiceConnections,
  tooManyConnections
} from './connection-limits.ts'
export { isInGroup, isUser } from './credentials.ts'
export {
  clientDenied,
  dataRequired,
  isControlError,
  listenerDenied,
  otherService,
  pathIsLink,
  socketClosed
} from './errors.ts'
export { type ListenSource, type Source, isDatagram, listenerSourceOf, sourceOf } from './listen-source.ts'
export { ListeningSocket, duplicateOf } from './listening-socket.ts'
export { closeApart, serveConnections, warnOfService } from './serving.ts'
export { moveSocket, openSocket, takeSocketFd } from './unix-socket.ts'
