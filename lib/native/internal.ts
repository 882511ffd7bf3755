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
export { AGAIN, BROKEN, BUSY, END, MAX_RECEIVED_FDS } from './codes.ts'
export { closeFds } from './owned-fds.ts'
export { MOST_BYTES, fds, outcome, text } from './shared-memory.ts'
export { systemError } from './system-error.ts'
