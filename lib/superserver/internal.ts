// What this room offers to the rooms above it, and not to users.
export { ConnectionIntake } from './connection-intake.ts'
export {
  DRAIN_TIMEOUT,
  type PassedSocket,
  describe,
  displayPassed,
  takePassed,
  takeReadyCondition
} from './passed-socket.ts'
export { isChannelFree, noteBeforeReady, worker } from './worker-channel.ts'
