// What this room offers to the rooms above it, and not to users.
export { BYTES, JSON_TEXT } from './codec.ts'
export { ERROR, MESSAGE, REQUEST, RESPONSE } from './frame.ts'
export { tell, toldError } from './remote-error.ts'
