// What this room offers to the rooms above it, and not to users.
export { borrow, putFd, putFds } from './fd-source.ts'
export { checkCast, giveToServer, wrongKind } from './casts.ts'
export { adopt, closeQuietly, takeFd, takeFds, wrapFd } from './descriptor.ts'
export { StreamHandle, openIo } from './io.ts'
export { kindOf } from './kind.ts'
export {
  type ConnectionHandle,
  type Listen,
  hasHandle,
  nodeListen,
  openHandle,
  pipeNameOf,
  replaceListen,
  setServerHandle,
  takeFromDeno
} from './node-internals.ts'
