import { boolean, optionsOf, descriptorNameOf, invalidValue } from '../base/internal.ts'
import type { FdSource } from '../descriptor/index.ts'
import { putFds } from '../descriptor/internal.ts'
import { type NotifyOptions, limitsOf, sendAssignments } from './message.ts'

/** Options of {@link storeFds}. */
export interface StoreFdsOptions extends NotifyOptions {
  /**
   * Whether the manager polls the descriptors, and drops one that reports an error or a hang-up (default true). Descriptors that
   * cannot be polled, such as those of files, are never dropped.
   */
  poll?: boolean | undefined
}

/**
 * Stores descriptors with the service manager for the next process of this service: `FDSTORE=1` of sd_notify(3).
 *
 * The next process receives them from {@link listenFds} under this name, also if this process crashes. They stay open here, and the
 * caller keeps them. systemd stores at most as many as the unit's `FileDescriptorStoreMax=`, which is 0 by default, and does not report
 * those that it drops.
 *
 * @param name the name: 1 to 255 printable ASCII characters, without colons and backslashes. Several descriptors may have the same
 * @param fds the descriptors, at most 253 in one call. The manager does not store the same one twice
 * @param options `poll`, `timeout`, `signal`
 * @returns resolves to true when the message is in the manager's queue; to false if `NOTIFY_SOCKET` is not set
 *
 *   Rejects as {@link notify}, and with `EBADF` for a number that is not open.
 */
export async function storeFds(name: string, fds: readonly FdSource[], options?: StoreFdsOptions): Promise<boolean> {
  const assignments = ['FDSTORE=1', `FDNAME=${descriptorNameOf(name)}`]
  const { poll = true } = optionsOf(options) ?? {}
  boolean('options.poll', poll)
  if (!poll) assignments.push('FDPOLL=0')
  const limits = limitsOf(options)
  if (putFds(fds, 'fds') === 0) throw invalidValue('fds', 'must not be empty')
  return sendAssignments(assignments, fds, limits)
}

/**
 * Removes the descriptors of a name from the service manager's store: `FDSTOREREMOVE=1` of sd_notify(3).
 *
 * @param name the name under which they were stored
 * @param options `timeout`, `signal`
 * @returns as {@link notify}
 */
export async function removeFds(name: string, options?: NotifyOptions): Promise<boolean> {
  const assignments = ['FDSTOREREMOVE=1', `FDNAME=${descriptorNameOf(name)}`]
  return sendAssignments(assignments, [], limitsOf(options))
}
