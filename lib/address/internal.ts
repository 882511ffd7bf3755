// What this room offers to the rooms above it, and not to users.
export { internetAddressOf } from './internet-address.ts'
export { parseListenAddress } from './listen-address.ts'
export { type FileId, claimFile, disownFile } from './socket-file.ts'
export { addressOf } from './unix-address.ts'
