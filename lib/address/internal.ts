// What this room offers to the rooms above it, and not to users.
export { internetAddressOf, addressOf, addressOfSocket } from './socket-address.ts'
export { formatInternet, parseListenAddress } from './listen-address.ts'
export { type FileId, claimFile, disownFile } from './socket-file.ts'
