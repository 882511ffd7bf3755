// What this room offers to the rooms above it, and not to users.
export { InputTimer, onAbort, raceAbort, withLimit, signalOf, aborted } from './abort.ts'
export { Iteration, end } from './async-iterator.ts'
export {
  DEFAULT_BACKLOG,
  descriptorNameOf,
  isDescriptorName,
  MAX_INT,
  backlogOf,
  boolean,
  bytesOf,
  integer,
  optionsOf
} from './validate.ts'
export {
  invalidReturn,
  invalidState,
  invalidType,
  invalidValue,
  outOfRange,
  withCode,
  pathError,
  protocolError,
  timedOut,
  tooLarge,
  undecodable,
  rejection,
  shown
} from './errors.ts'
export { type InspectionArguments, inspected, inspection, stateOf, uncloneable } from './inspection.ts'
export { type Identity, groupOf, identityOf, loginVariables, uidOf } from './identity.ts'
export { ByteBuffer, Places, Queue } from './collections.ts'
export { checkRuntime, runArguments } from './runtime.ts'
export { RestartBackoff } from './backoff.ts'
export { Waiter, Waiters, settle } from './waiters.ts'
