// What this room offers to the rooms above it, and not to users.
export { BYTES, ERROR, JSON_TEXT, MESSAGE, REQUEST, RESPONSE } from './frame.ts'
export { refuse } from './channel.ts'
export { deserializeError, serializeError } from './remote-error.ts'
