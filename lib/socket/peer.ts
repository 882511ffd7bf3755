import type { Credentials } from './credentials.ts'
import { systemError } from '../native/system-error.ts'
import { native } from '../native/binding.ts'

/** Returns the credentials of a connection's peer. */
export function peerOf(fd: number): Credentials {
  const peer = native.peer(fd)
  if (typeof peer === 'number') throw systemError(peer, 'getsockopt')
  return peer
}
