// What this room offers to the rooms above it, and not to users.
export { borrow } from './borrow.ts'
export { checkCast } from './casts.ts'
export { adopt, closeQuietly, takeFd, takeFds, wrapFd } from './descriptor.ts'
export { wrongKind } from './errors.ts'
export { putFd, putFds } from './fd-source.ts'
export { kindOf } from './kind.ts'
export { listenOn, trackConnections } from './node-internals.ts'
