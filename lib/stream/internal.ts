// What this room offers to the rooms above it, and not to users.
export { UnixStream, closeDescriptors, duplicateSources } from './unix-stream.ts'
