import { unsupportedPlatform } from '../base/errors/unsupported.ts'
import { MAX_SENT_FDS } from '../native/codes.ts'
import { backend, isSupported, loadFailure, probeKernel } from '../native/binding.ts'

/** What this kernel and this runtime can do. */
export interface Capabilities {
  /** How readiness is learnt: `'uv'`, on the runtime's own event loop, or `'thread'`. */
  readonly backend: 'uv' | 'thread'
  /** Abstract addresses: those that begin with `'\0'`. */
  readonly abstract: boolean
  /** Sockets of type `'seqpacket'`. */
  readonly seqpacket: boolean
  /** The sender's credentials with each message: `credentials: true`. */
  readonly messageCredentials: boolean
  /** A pidfd of the sender with each message: `pidfd: true`. */
  readonly messagePidfd: boolean
  /** A pidfd of a connection's peer: `peerPidfd()`. */
  readonly peerPidfd: boolean
  /** Descriptors are refused where they are sent: `listen` with `descriptors: false`. */
  readonly passRights: boolean
  /** Received descriptors are close-on-exec at once, so that no process started at that moment inherits them. */
  readonly closeOnExec: boolean
  /** The most descriptors that one message may carry. */
  readonly maxFds: number
}

let probed: Capabilities | undefined

/**
 * Tell what this kernel and this runtime can do: tried out at the first call, on a few sockets of its own.
 *
 * @throws ERR_UNSUPPORTED_PLATFORM
 */
export function capabilities(): Capabilities {
  if (!isSupported) throw unsupportedPlatform(loadFailure)
  if (probed === undefined) {
    const { abstractAddresses, seqpacket, credentials, pidfd, peerPidfd, passRights, closeOnExec } = probeKernel()
    probed = Object.freeze({
      backend: backend(),
      abstract: abstractAddresses,
      seqpacket,
      messageCredentials: credentials,
      messagePidfd: pidfd,
      peerPidfd,
      passRights,
      closeOnExec,
      maxFds: MAX_SENT_FDS
    })
  }
  return probed
}
