// What this room offers to the rooms above it, and not to users.
export {
  type ProgramDescription,
  type ServiceState,
  describeErrno,
  describeStep,
  executeRestricted,
  hide,
  native,
  resourceByName
} from './binding.ts'
export { AGAIN, BROKEN, BUSY, END, MAX_RECEIVED_FDS, STREAM } from './codes.ts'
export { closeFds, duplicateShared } from './owned-fds.ts'
export { flushResult, frameResult } from './frame-results.ts'
export { fdAt } from './results.ts'
export { MOST_BYTES, fds, outcome, text } from './shared-memory.ts'
export { systemError } from './system-error.ts'
