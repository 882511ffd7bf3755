// What this room offers to the rooms above it, and not to users.
export { invalidVariable } from './environment.ts'
export { passedListeners } from './listen-fds.ts'
