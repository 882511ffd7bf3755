// What this room offers to the rooms above it, and not to users.
export {
  type BlockingOpen,
  type ProgramDescription,
  type ExitStatus as NativeExitStatus,
  type ServiceEvent,
  type ServiceState,
  describeErrno,
  endBySignalAtExit,
  executeProgram,
  executeRestricted,
  native,
  resourceByName,
  setUndumpable
} from './binding.ts'
export { AGAIN, BROKEN, BUSY, END, MAX_RECEIVED_FDS, MAX_SENT_FDS } from './codes.ts'
export { closeFds, duplicateShared, giveFd } from './owned-fds.ts'
export { flushResult, frameResult, fdAt } from './results.ts'
export { MOST_BYTES, fds, outcome, text } from './shared-memory.ts'
export { systemError } from './system-error.ts'
