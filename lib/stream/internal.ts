// What this room offers to the rooms above it, and not to users.
export { alreadyConnected } from './errors.ts'
export { SocketStream, capture, closeAll } from './unix-stream.ts'
