import type { Abortable } from '../base/index.ts'
import { boolean, signalOf, optionsOf, descriptorNameOf, invalidValue } from '../base/internal.ts'
import type { FdSource } from '../descriptor/index.ts'
import { putFds } from '../descriptor/internal.ts'
import { tell } from './message.ts'

/** Options of {@link storeFds}. */
export interface StoreFdsOptions extends Abortable {
  /**
   * Whether the manager watches the descriptors, and drops one that reports an error or the end (default true). Of what cannot
   * be watched, such as a file, it sees neither.
   */
  poll?: boolean | undefined
}

/**
 * Have the service manager keep descriptors while this service is restarted: `FDSTORE=1` of sd_notify(3).
 *
 * The next process of the service gets them by {@link listenFds}, under this name: connections, listeners and memory go on,
 * whatever became of this process. They stay open here too, and the caller's. systemd keeps as many as the unit's
 * `FileDescriptorStoreMax=` says, which is none by default, and says nothing of those that it drops.
 *
 * @param name under which they come back: 1 to 255 printable ASCII characters, without a colon and a backslash.
 *   Several descriptors may have the same
 * @param fds what to keep, at most 253 at a time. One that the manager keeps already is not kept twice
 * @param options `poll`, `signal`
 * @returns resolves to true when the message is in the manager's queue; to false where `NOTIFY_SOCKET` is not set
 *
 *   Rejects as {@link notify}, and with `EBADF` for a number that is not open.
 */
export async function storeFds(name: string, fds: readonly FdSource[], options?: StoreFdsOptions): Promise<boolean> {
  const assignments = ['FDSTORE=1', `FDNAME=${descriptorNameOf(name)}`]
  const { poll = true } = optionsOf(options) ?? {}
  boolean('options.poll', poll)
  if (!poll) assignments.push('FDPOLL=0')
  const signal = signalOf(options)
  if (putFds(fds, 'fds') === 0) throw invalidValue('fds', 'must not be empty')
  return tell(assignments, fds, signal)
}

/**
 * Have the service manager drop the descriptors of a name: `FDSTOREREMOVE=1` of sd_notify(3).
 *
 * @param name under which they were stored
 * @param options `signal`
 * @returns as {@link notify}
 */
export async function removeFds(name: string, options?: Abortable): Promise<boolean> {
  const assignments = ['FDSTOREREMOVE=1', `FDNAME=${descriptorNameOf(name)}`]
  return tell(assignments, [], signalOf(optionsOf(options)))
}
