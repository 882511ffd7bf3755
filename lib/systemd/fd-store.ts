import { type Abortable, optionsOf, signalOf } from '../arguments.ts'
import { invalidType, invalidValue } from '../errors.ts'
import { type FdSource, putFds } from '../fd-source.ts'
import { tell } from './message.ts'

/** Options of {@link storeFds}. */
export interface StoreFdsOptions extends Abortable {
  /**
   * Whether the manager watches the descriptors, and drops one that reports an error or the end (default true). Of what cannot
   * be watched, such as a file, it sees neither.
   */
  poll?: boolean | undefined
}

/** The longest name of a descriptor that is stored (systemd's `FDNAME_MAX`). */
const MOST_NAME = 255

/** The assignment of a name, as systemd checks names; it stores what has a wrong one as `stored`. */
function nameOf(name: unknown): string {
  if (typeof name !== 'string') throw invalidType('name', 'of type string', name)
  if (name.length > MOST_NAME) throw invalidValue('name', `has ${name.length} characters, and may have ${MOST_NAME}`)
  if (!/^[ -~]*$/.test(name)) throw invalidValue('name', 'must consist of ASCII characters that can be printed')
  // A colon separates names in LISTEN_FDNAMES, where nothing escapes them; libsystemd drops a backslash as it reads that.
  if (/[:\\]/.test(name)) throw invalidValue('name', "must not contain ':' or '\\', with which it would not come back")
  return `FDNAME=${name}`
}

/**
 * Have the service manager keep descriptors while this service is restarted: `FDSTORE=1` of sd_notify(3).
 *
 * The next process of the service gets them by {@link listenFds}, under this name: connections, listeners and memory go on,
 * whatever became of this process. They stay open here too, and the caller's. systemd keeps as many as the unit's
 * `FileDescriptorStoreMax=` says, which is none by default, and says nothing of those that it drops.
 *
 * @param name under which they come back: ASCII characters that can be printed, without a colon and a backslash, at most 255.
 *   Several descriptors may have the same
 * @param fds what to keep, at most 253 at a time. One that the manager keeps already is not kept twice
 * @param options `poll`, `signal`
 * @returns resolves to true when the message is in the manager's queue; to false where `NOTIFY_SOCKET` is not set
 *
 *   Rejects as {@link notify}, and with `EBADF` for a number that is not open.
 */
export async function storeFds(name: string, fds: readonly FdSource[], options?: StoreFdsOptions): Promise<boolean> {
  const assignments = ['FDSTORE=1', nameOf(name)]
  const { poll = true } = optionsOf(options) ?? {}
  if (typeof poll !== 'boolean') throw invalidType('options.poll', 'of type boolean', poll)
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
  const assignments = ['FDSTOREREMOVE=1', nameOf(name)]
  return tell(assignments, [], signalOf(optionsOf(options)))
}
