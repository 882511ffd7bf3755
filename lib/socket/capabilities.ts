import { unsupportedPlatform } from '../base/errors.ts'
import { MAX_SENT_FDS } from '../native/codes.ts'
import { backend, isSupported, loadFailure, probeKernel } from '../native/binding.ts'

/** The features of this kernel and runtime. */
export interface Capabilities {
  /** The source of readiness events: `'uv'`, the runtime's own event loop, or `'thread'`. */
  readonly backend: 'uv' | 'thread'
  /** Whether abstract addresses, which begin with `'\0'`, are supported. */
  readonly abstract: boolean
  /** Whether sockets of type `'seqpacket'` are supported. */
  readonly seqpacket: boolean
  /** Whether messages can carry the sender's credentials: `credentials: true`. */
  readonly messageCredentials: boolean
  /** Whether messages can carry a pidfd of the sender: `pidfd: true`. */
  readonly messagePidfd: boolean
  /** Whether `peerPidfd()` works. */
  readonly peerPidfd: boolean
  /** Whether the kernel refuses descriptors at the sender: `listen` with `descriptors: false`. */
  readonly passRights: boolean
  /**
   * Whether the kernel reports the end of a program by a descriptor: pidfd_open(2) from Linux 5.3 on, kqueue(2) elsewhere. Otherwise a
   * superserver uses a thread for each program and each worker that runs.
   */
  readonly exitDescriptors: boolean
  /** Whether received descriptors are close-on-exec from the start, so that no process started meanwhile inherits them. */
  readonly closeOnExec: boolean
  /** The maximum number of descriptors that one message can carry. */
  readonly maxFds: number
}

let probed: Capabilities | undefined

/**
 * Returns what this kernel and this runtime support: tried out at the first call, on a few sockets of its own.
 *
 * A feature that cannot be tried, for example because the descriptor table is full, is false. The next call tries again.
 *
 * @throws ERR_UNSUPPORTED_PLATFORM
 */
export function capabilities(): Capabilities {
  if (!isSupported) throw unsupportedPlatform(loadFailure)
  if (probed !== undefined) return probed
  const {
    abstractAddresses,
    seqpacket,
    credentials,
    pidfd,
    peerPidfd,
    passRights,
    exitDescriptors,
    closeOnExec,
    complete
  } = probeKernel()
  const found = Object.freeze({
    backend: backend(),
    abstract: abstractAddresses,
    seqpacket,
    messageCredentials: credentials,
    messagePidfd: pidfd,
    peerPidfd,
    passRights,
    exitDescriptors,
    closeOnExec,
    maxFds: MAX_SENT_FDS
  })
  if (complete) probed = found
  return found
}
