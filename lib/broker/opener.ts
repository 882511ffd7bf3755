import { constants } from 'node:os'
import { raceAbort, withLimit } from '../base/internal.ts'
import { type BlockingOpen, native, systemError } from '../native/internal.ts'

/** The maximum number of threads that open files for one user, and for all. */
const MAX_PER_USER = 8
const MAX_THREADS = 256

/** The result of a native call: a descriptor or an error code, and what it has found. */
export interface Opened extends Pick<BlockingOpen, 'kind' | 'isMagic'> {
  readonly code: number
}

/** The calls of one user. */
class Share {
  /** The number of calls whose threads may run; those that were abandoned too. */
  calls = 0
  readonly abandoned = new Set<BlockingOpen>()
  #waiting: (() => void)[] = []

  /** Removes the abandoned calls whose threads have ended. */
  prune(): void {
    for (const call of this.abandoned) if (!call.isRunning) this.remove(call)
  }

  remove(call: BlockingOpen): void {
    this.calls--
    this.abandoned.delete(call)
    const waiting = this.#waiting
    this.#waiting = []
    for (const resolve of waiting) resolve()
  }

  /** Resolves when a call has been removed. */
  changed(): Promise<void> {
    return new Promise((resolve) => this.#waiting.push(resolve))
  }
}

/**
 * Opens files on threads, because a file system in user space or on another machine can block each call for as long as it
 * likes. A call that blocks delays no other user, and of its own user only those beyond a number. A call that has reached its
 * deadline continues on its thread, which closes what it opens.
 */
export class Opener {
  readonly #shares = new Map<number, Share>()
  readonly #timeout: number

  constructor(timeout: number) {
    this.#timeout = timeout
  }

  /**
   * Runs a call, which `start` begins. Rejects with `ETIMEDOUT` at its deadline, with `EAGAIN` if as many calls as are accepted
   * have reached theirs and block still, and with AbortError.
   */
  run(user: number, start: () => BlockingOpen | number, signal: AbortSignal): Promise<Opened> {
    return withLimit(signal, this.#timeout, 'openat2', async (limit) => {
      const share = await this.#admit(user, limit)
      const call = start()
      if (typeof call === 'number') return { code: call, kind: null, isMagic: false }
      share.calls++
      try {
        await raceAbort(call.wait(), limit)
      } catch (error) {
        share.abandoned.add(call)
        call.abandon()
        throw error
      }
      share.remove(call)
      const { kind, isMagic } = call
      return { code: native.takeOpened(call), kind, isMagic }
    })
  }

  /** Resolves to the calls of a user when there is room for another one. */
  async #admit(user: number, limit: AbortSignal): Promise<Share> {
    for (;;) {
      for (const [id, other] of this.#shares) {
        other.prune()
        if (other.calls === 0 && id !== user) this.#shares.delete(id)
      }
      const share = this.#shares.get(user) ?? new Share()
      this.#shares.set(user, share)
      const total = [...this.#shares.values()].reduce((sum, { calls }) => sum + calls, 0)
      if (share.calls < MAX_PER_USER && total < MAX_THREADS) return share
      if (share.calls === share.abandoned.size) throw systemError(-constants.errno.EAGAIN, 'openat2')
      await raceAbort(share.changed(), limit)
    }
  }
}
